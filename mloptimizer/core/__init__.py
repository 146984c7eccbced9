"""The data that travels between the rooms, and errors, files, locks and interrupts for all of them.

In: nothing of ours. Out: plain frozen data (trials, slots, events, failures), the errors that a person sees, and
functions that write files safely. Every other room imports from here.
"""
