"""Settings: their defaults, meaning and possible values, and how they are read and written.

In: `system_parameters.py`, ``--set NAME=VALUE`` and profiles. Out: one immutable `Settings`, checked once.
"""
