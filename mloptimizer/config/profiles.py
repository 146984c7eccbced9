"""The profiles: the settings that each of them changes; a value that the person states takes precedence."""

from collections.abc import Mapping

_PLAIN = {
    "precision": "float32",
    "xla": "off",
    "steps_per_execution": 1,
    "accumulation_steps": 1,
    "remat": "off",
    "data_on_device": "off",
    "autotune": "off",
}

PROFILES: Mapping[str, Mapping[str, object]] = {
    # One plain way of training, the easiest to follow and to compare with.
    "basic": {**_PLAIN, "augmentation": "off", "data_cache": "memory"},
    "balanced": {},
    # Everything that measurement finds faster, even if it changes the batch size.
    "speed": {"batch_size": "auto", "autotune": "on", "prefetch_batches": 8, "monitor_seconds": 5.0},
    # The same results to the last bit in every run on the same machine.
    "reproducible": {**_PLAIN, "seed": 0, "workers": 1, "deterministic": True},
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
