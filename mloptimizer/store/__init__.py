"""The workspace: every path in it, the records of trials, what runs now, and orders from other terminals.

In: events of a search. Out: files that a person reads without mloptimizer, and the same files read back.
"""
