"""The Ray engine: trials on the machines of a cluster. The only place that imports Ray."""
