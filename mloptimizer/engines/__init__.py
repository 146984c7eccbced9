"""Runs trials on slots: in processes, in a thread, or on a Ray cluster.

In: plans, slots, and the `run_trial` that it is given. Out: events; every started trial yields exactly one result.
"""
