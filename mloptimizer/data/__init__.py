"""Finds, reads, decodes and splits data sets.

In: a data set's name. Out: a `DatasetInfo` and memory-mapped arrays, decoded once for all processes.
"""
