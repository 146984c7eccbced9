"""Measures short trainings: what trains fastest here, what each optimisation gains, how many GPUs a trial gets.

In: a model, a data set, variants of the settings. Out: measurements, plans that searches use, benchmark files.
"""
