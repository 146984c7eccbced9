"""Reports: data first, then rendered for the terminal, the dashboard and Prometheus.

In: the workspace's records. Out: tables, pages and metrics. Nothing here writes to a study.
"""
