"""The loop of a search: phases, retries, limits (budgets, disk, memory), and GPUs that trials share.

In: a study, a store, an engine. Out: results in both, and a summary.
"""
