"""Checkpoints: from where a trial that was cut off goes on."""
