"""Reports: data first, then rendered for the terminal, the dashboard and Prometheus.

In: the workspace's records; the dashboard reads the Optuna storage. Out: tables, pages and metrics.
"""
