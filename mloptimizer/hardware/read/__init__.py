"""Reads the machine: GPUs, processors, memory, energy counters."""
