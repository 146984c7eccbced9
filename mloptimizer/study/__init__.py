"""The Optuna study: proposes configurations, prunes, ranks, and learns from earlier studies.

In: search spaces, epoch values and results. Out: suggestions and decisions. The only room that imports Optuna.
"""
