"""mloptimizer finds the best Keras model for a data set on all the GPUs that a person has."""

__version__ = "0.2.0"
__all__ = ["__version__"]
