"""The profiles: for each, the settings that it changes; a setting that the person states keeps the person's value."""

from collections.abc import Mapping

PROFILES: Mapping[str, Mapping[str, object]] = {
    # One plain way of training, the easiest to follow and to compare with.
    "basic": {
        "precision": "float32",
        "xla": "off",
        "steps_per_execution": 1,
        "accumulation_steps": 1,
        "remat": "off",
        "augmentation": "off",
        "data_cache": "memory",
        "data_on_device": "off",
        "autotune": "off",
    },
    "balanced": {},
    # Everything that measuring finds faster, also where it changes the batch.
    "speed": {"batch_size": "auto", "autotune": "on", "prefetch_batches": 8, "monitor_seconds": 5.0},
    # The same figures to the last bit in every run on the same machine.
    "reproducible": {
        "seed": 0,
        "workers": 1,
        "deterministic": True,
        "precision": "float32",
        "xla": "off",
        "accumulation_steps": 1,
        "remat": "off",
        "data_on_device": "off",
        "steps_per_execution": 1,
        "autotune": "off",
    },
    # The largest models on the smallest devices.
    "memory": {
        "accumulation_steps": 4,
        "min_micro_batch": 1,
        "remat": "on",
        "data_cache": "disk",
        "data_on_device": "off",
        "prefetch_batches": 1,
        "workers": 1,
        "autotune": "off",
    },
}
