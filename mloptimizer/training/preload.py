"""Imports TensorFlow, Keras and the training code once, for the server that trial processes are forked from.

Guarantees: importing it neither lists nor initialises a device and leaves no thread behind, so that a forked child can
still choose its devices.
"""

from mloptimizer.training.environment import set_environment

set_environment()

# After the environment, on which the import of TensorFlow depends.
from mloptimizer.training.export.keras_export import export_model  # noqa: E402
from mloptimizer.training.trial import run_trial  # noqa: E402

__all__ = ["export_model", "run_trial"]
