"""The nouns that travel between the rooms, and how errors, files, locks and interrupts work everywhere.

In: nothing of ours. Out: plain frozen data (trials, slots, events, failures), the errors that a person sees, and
helpers that leave whole files behind. Every other room imports from here.
"""
