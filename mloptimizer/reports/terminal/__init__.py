"""Renders reports as tables for the terminal."""
