"""One training step: model, optimizers, clipping, precision, schedule, recovery from values that are not finite."""
