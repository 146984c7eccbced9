"""Memory of a training: the batch plan, the estimate, recomputed activations, the batch size that fits."""
