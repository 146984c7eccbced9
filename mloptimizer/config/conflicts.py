"""Says which settings cannot hold together, though each is possible by itself."""

from collections.abc import Callable
from typing import Any

_CONFLICTS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda s: s.deterministic and s.xla == "on",
        "deterministic = True with xla = on: what XLA compiles may differ between runs. Possible: xla = auto or off.",
    ),
    (
        lambda s: s.check_numerics and s.xla == "on",
        "check_numerics = True with xla = on: a compiled step has no operations to check. Possible: xla = auto or off.",
    ),
    (
        lambda s: s.check_numerics and s.precision == "mixed_float16",
        "check_numerics = True with precision = mixed_float16: its loss scale lives on overflows. Possible: float32.",
    ),
    (
        lambda s: s.deterministic and s.batch_size == "auto",
        "deterministic = True with batch_size = auto: what is measured may differ between runs. Possible: a number.",
    ),
    (
        lambda s: (
            s.augmentation == "off"
            and any(getattr(s, name) not in ("auto", "off", 0) for name in s.names(group="Augmentation"))
        ),
        "augmentation = off with a strength of the augmentation: it would not count. Possible: auto or search.",
    ),
    (
        lambda s: s.engine == "ray" and s.autotune == "on",
        "autotune = on with engine = ray: it would measure this machine, and others train. Possible: autotune = auto.",
    ),
    (
        lambda s: s.engine == "ray" and s.trials_per_gpu != 1,
        "trials_per_gpu with engine = ray: every trial of a cluster has GPUs of its own. Possible: trials_per_gpu = 1.",
    ),
    (
        lambda s: s.engine == "thread" and (s.workers not in ("auto", 1) or s.trials_per_gpu != 1 or s.nice),
        "engine = thread: the search and its trials are one process, and one trial at a time runs in it. Possible: "
        "workers = auto or 1, trials_per_gpu = 1, nice = 0.",
    ),
    (
        lambda s: s.engine != "ray" and s.checkpoint_url,
        "checkpoint_url: counts with engine = ray only. Possible: engine = ray, or leave it empty.",
    ),
    (
        lambda s: s.memory_ceiling < s.memory_threshold,
        "memory_ceiling: is below memory_threshold. Possible: at least memory_threshold.",
    ),
    (
        lambda s: s.clipping == "off" and s.clip_threshold != "auto",
        "clipping = off with a clip_threshold: there is nothing to limit. Possible: clip_threshold = auto.",
    ),
    (
        lambda s: s.trials_per_gpu != 1 and s.gpus_per_trial not in ("auto", 1),
        "trials_per_gpu: GPUs are shared by trials that have one each, and gpus_per_trial is more. "
        "Possible: trials_per_gpu = 1, or gpus_per_trial = auto or 1.",
    ),
    (
        lambda s: (
            isinstance(s.batch_size, int)
            and isinstance(s.accumulation_steps, int)
            and s.accumulation_steps
            > s.batch_size * (s.batch_size_multiplier if s.batch_size_multiplier != "auto" else 1)
        ),
        "accumulation_steps: is more than the images per GPU and step. Possible: at most batch_size.",
    ),
)


def find_conflict(settings: Any) -> str:
    """Return the first conflict of these `Settings` in words, with what is possible; empty where there is none."""
    return next((reason for conflicts, reason in _CONFLICTS if conflicts(settings)), "")
