"""Makes TensorFlow and Keras the same on every machine, whatever the environment and keras.json say."""

import os

REQUIRED = {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}
_DEFAULTS = {  # unless the user sets them
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


def set_environment() -> None:
    """Set the variables that the import of TensorFlow and Keras depends on."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(REQUIRED)


def reset_keras() -> None:
    """Reset Keras to its defaults without a keras.json, as search spaces expect."""
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
