"""Trains one model, in a worker: the only room that imports TensorFlow and Keras. The driver asks it for batch plans.

In: a `TrialPlan` and a `Slot`. Out: events (epochs, decisions, hardware rows) and exactly one `TrialResult`.
"""
