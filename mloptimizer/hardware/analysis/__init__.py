"""Turns a hardware log into a summary, energy, and a diagnosis with evidence."""
