"""The process engine: each trial in a process of its own, forked from a server that has imported TensorFlow."""
