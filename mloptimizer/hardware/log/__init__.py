"""Writes the hardware log, and thins it when it grows long."""
