"""Trains one model: the worker's side, and the only room that imports TensorFlow and Keras.

In: a `TrialPlan` and a `Slot`. Out: events (epochs, decisions, hardware rows) and exactly one `TrialResult`.
"""
