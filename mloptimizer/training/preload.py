"""Imports TensorFlow, Keras and the training code once, for the server that trial processes are forked from.

Guarantees: the import neither lists nor initialises devices and leaves no thread, so a forked child can still choose
its devices.
"""

from mloptimizer.training.environment import set_environment

set_environment()

# The import of TensorFlow depends on the environment.
from mloptimizer.training.export.keras_export import export_model  # noqa: E402
from mloptimizer.training.trial import run_trial  # noqa: E402

__all__ = ["export_model", "run_trial"]
