"""Checkpoints, from which an interrupted trial resumes."""
