"""Finds combinations of settings that are impossible although each value is possible by itself."""

from collections.abc import Iterator
from typing import Any


def find_conflict(settings: Any) -> str:
    """Return the first conflict in these `Settings` and what is possible instead; empty text if there is none."""
    return next(_conflicts(settings), "")


def _conflicts(s: Any) -> Iterator[str]:  # noqa: PLR0912 (one branch per conflict)
    if s.deterministic and s.xla == "on":
        yield "deterministic = True with xla = on: its results may differ between runs. Possible: xla = auto or off."
    if s.check_numerics and s.xla == "on":
        yield "check_numerics = True with xla = on: a compiled step cannot be checked. Possible: xla = auto or off."
    if s.check_numerics and s.precision == "mixed_float16":
        yield "check_numerics = True with precision = mixed_float16: loss scaling causes overflows. Possible: float32."
    if s.deterministic and s.batch_size == "auto":
        yield "deterministic = True with batch_size = auto: the size may differ between runs. Possible: a number."
    strengths = (getattr(s, name) for name in s.names(group="Augmentation"))
    if s.augmentation == "off" and any(strength not in ("auto", "off", 0) for strength in strengths):
        yield "augmentation = off with an augmentation strength: it would have no effect. Possible: auto or search."
    if s.engine == "ray" and s.autotune == "on":
        yield "autotune = on with engine = ray: it measures this machine, but others train. Possible: autotune = auto."
    if s.engine == "ray" and s.trials_per_gpu != 1:
        yield "trials_per_gpu with engine = ray: trials on a cluster do not share GPUs. Possible: trials_per_gpu = 1."
    if s.engine == "thread" and (s.workers not in ("auto", 1) or s.trials_per_gpu != 1 or s.nice):
        possible = "workers = auto or 1, trials_per_gpu = 1, nice = 0"
        yield f"engine = thread: trials run in the search's own process, one at a time. Possible: {possible}."
    if s.engine != "ray" and s.checkpoint_url:
        yield "checkpoint_url: works with engine = ray only. Possible: engine = ray, or leave it empty."
    if s.memory_ceiling < s.memory_threshold:
        yield "memory_ceiling: is below memory_threshold. Possible: at least memory_threshold."
    if s.clipping == "off" and s.clip_threshold != "auto":
        yield "clipping = off with a clip_threshold: there is nothing to clip. Possible: clip_threshold = auto."
    if s.trials_per_gpu != 1 and s.gpus_per_trial not in ("auto", 1):
        possible = "trials_per_gpu = 1, or gpus_per_trial = auto or 1"
        yield f"trials_per_gpu: only trials with one GPU each can share GPUs. Possible: {possible}."
    if isinstance(s.batch_size, int) and isinstance(s.accumulation_steps, int):
        images = s.batch_size * (1 if s.batch_size_multiplier == "auto" else s.batch_size_multiplier)
        if s.accumulation_steps > images:
            yield "accumulation_steps: is more than the images per GPU and step. Possible: at most batch_size."
