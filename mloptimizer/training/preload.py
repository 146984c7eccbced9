"""Imports TensorFlow, Keras and the training code once, for the server that trial processes are forked from.

Guarantees: importing it neither lists nor initialises a device and leaves no thread behind, so that a forked child can
still choose its devices; a variable that the person has set in the environment is left alone.
"""

import os

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# After the environment, on which the import of TensorFlow depends.
from mloptimizer.training.export.keras_export import export_model  # noqa: E402
from mloptimizer.training.trial import run_trial  # noqa: E402

__all__ = ["ENVIRONMENT", "export_model", "run_trial"]
