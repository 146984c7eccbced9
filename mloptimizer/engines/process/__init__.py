"""The process engine: each trial in its own process, forked from a server that has imported TensorFlow."""
