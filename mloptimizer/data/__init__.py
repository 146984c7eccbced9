"""Data sets: where they are found, how they are read, and how they are split.

In: a data set's name. Out: a `DatasetInfo` and memory-mapped arrays, decoded once for all processes.
"""
