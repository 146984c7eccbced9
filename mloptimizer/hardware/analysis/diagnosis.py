"""Says in words what slows a trial down, and which setting to change: one table of rules over the figures of its log.

A rule holds only of figures that the log tells; where none holds, nothing is found, which is said as plainly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Literal

from mloptimizer.hardware.analysis.evidence import EVIDENCE_WORDS, Evidence, gather_evidence
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH
from mloptimizer.hardware.analysis.summary import SUMMARY_FIGURES, summarise
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.columns import Cell

_HALF_PRECISIONS = ("mixed_float16", "mixed_bfloat16")


@dataclass(frozen=True)
class Condition:
    """A figure that is at least, or at most, a limit."""

    figure: str
    sign: Literal["≥", "≤"]
    limit: float

    def holds(self, evidence: Evidence) -> bool:
        value = evidence.get(self.figure, nan)
        return value >= self.limit if self.sign == "≥" else value <= self.limit


@dataclass(frozen=True)
class Change:
    """A setting to change, and to what; `value` None: a number that depends on the trial, `words` say which way."""

    setting: str
    value: str | None
    words: str

    def is_made(self, present: str | None) -> bool:
        """Whether the setting has the value, or one as good."""
        if self.setting == "start_method" and present == "auto":
            return True  # it is fork server unless a choice says otherwise
        return present is not None and (present == self.value or {present, self.value} <= set(_HALF_PRECISIONS))


@dataclass(frozen=True)
class Rule:
    """What slows a trial down: it holds where all its conditions do."""

    name: str
    meaning: str
    when: tuple[Condition, ...]
    changes: tuple[Change, ...]
    also: tuple[str, ...] = ()  # figures that are told beside those of the conditions

    def holds(self, evidence: Evidence) -> bool:
        return all(condition.holds(evidence) for condition in self.when)


@dataclass(frozen=True)
class Finding:
    """A rule that holds, with its evidence in words."""

    rule: Rule
    evidence: str
    changes: tuple[Change, ...] = ()  # those of the rule that are not made yet


RULES: tuple[Rule, ...] = (
    # A third: then one trial in three could be had for nothing; less is the price of a graph, and hard to avoid
    Rule("compile-bound", "tracing and compiling take long against the training",
         (Condition("compile_percent", "≥", 33),),
         (Change("xla", "off", "so short a training does not earn what compiling costs"),)),
    # 20 %: from there TensorFlow's profiler calls a program highly input-bound (kHighlyInfeedBoundThresholdInPercent)
    Rule("input-bound", "the training waits for its images",
         (Condition("data_wait_percent", "≥", 20),),
         (Change("data_on_device", "on", "the images are augmented where the model is"),
          Change("data_cache", "memory", "they are not read from the disk again"),
          Change("prefetch_batches", "8", "more batches are ready"),
          Change("randaugment_magnitude", "0", "the dearest of the augmentations is left out"))),
    # 50 %: busy by NVML's count, in which one tiny kernel is as good as a large one. 40 % of the power limit: an idle
    # data-centre GPU draws 10 to 15 %, one that multiplies large matrices 70 to 100 %. 20 % memory: neither does it
    # move much. 20 ms: launching takes 5 to 10 us an operation, so some 2,000 operations, a small network's step, are
    # launched in that time whatever they compute
    Rule("launch-bound", "the GPU runs kernels that are too small to fill it",
         (Condition("gpu_utilization_percent", "≥", 50), Condition("gpu_power_percent", "≤", 40),
          Condition("gpu_memory_utilization_percent", "≤", 20), Condition("step_ms", "≤", 20)),
         (Change("batch_size", "auto", "more images in each kernel"),
          Change("steps_per_execution", "32", "more steps in one call"),
          Change("xla", "on", "fewer, larger kernels"),
          Change("trials_per_gpu", "auto", "several trials fill the GPU together"))),
    # NVML counts the time in which memory was read or written like the time in which a kernel ran. 70 % of the one
    # within 70 % of the other: no published limit; below, the kernels compute more than they move
    Rule("memory-bound", "the kernels wait for the GPU's memory",
         (Condition("gpu_utilization_percent", "≥", 70), Condition("memory_to_kernels_percent", "≥", 70)),
         (Change("precision", "mixed_bfloat16", "half the bytes; mixed_float16 before Ampere"),
          Change("xla", "on", "operations that are compiled into one kernel need no memory between them")),
         also=("gpu_memory_utilization_percent",)),
    # A GPU at its power limit lowers its clocks a little, as it should: only 10 % of the clock, in a fifth of the time,
    # cost more than the noise between two runs
    Rule("throttled", "the GPU runs slower than it could, for heat or power",
         (Condition("throttled_percent", "≥", 20), Condition("sm_clock_percent", "≤", 90)),
         (Change("precision", "mixed_bfloat16", "less power for the same work; mixed_float16 before Ampere. "
                 "And, outside of mloptimizer: cooling, or the power limit (nvidia-smi -pl)"),),
         also=("temperature_c", "gpu_power_percent")),
    # Half idle though the images are there (5 %: from there TensorFlow's profiler calls a program moderately
    # input-bound) and half the memory free: twice the batch fits
    Rule("batch too small", "the GPU idles between steps, and its memory is half empty",
         (Condition("gpu_utilization_percent", "≤", 50), Condition("gpu_memory_percent", "≤", 50),
          Condition("data_wait_percent", "≤", 5)),
         (Change("batch_size", "auto", "the fastest that fits"),
          Change("trials_per_gpu", "auto", "several trials fill the GPU together")),
         also=("step_ms",)),
    # Replicas wait for the slowest at every step: a fifth of the time is a GPU lost out of five
    Rule("imbalance between GPUs", "some of its GPUs wait for the others",
         (Condition("gpus", "≥", 2), Condition("gpu_spread_percent", "≥", 20)),
         (Change("gpus_per_trial", "1", "each GPU has a trial of its own"),)),
    # Full cores (90 %: the rest is the scheduler's), of which a quarter goes to others: the trial would be a third
    # faster with all of them
    Rule("CPU oversubscribed", "other programs take the trial's cores",
         (Condition("slot_busy_percent", "≥", 90), Condition("others_percent", "≥", 25)),
         (Change("workers", None, "fewer, or end what else runs on this machine"),)),
)  # fmt: skip
"""What is looked for in every trial, in the order in which it is told: what costs the whole trial before what costs its
training."""

# 15 %: more than the start of a process (2 to 4 s) costs a trial of half a minute
IDLE_BETWEEN = Rule(
    "idle between trials", "slots wait for the next trial, or for its process",
    (Condition("idle_between_percent", "≥", 15),),
    (Change("exploration_epochs", None, "more: trials that are longer start less often"),
     Change("start_method", "forkserver", "processes start in a fraction of the time")),
)  # fmt: skip
"""What is looked for in a study as a whole."""

HARDWARE_FIGURES: Mapping[str, str] = {
    **SUMMARY_FIGURES,
    "findings": "what `mloptimizer diagnose` finds in the log, separated by commas; null: nothing",
}
"""What each figure of `describe_trial` is, with its unit."""


_TOPICS = {"xla": "XLA", "data_on_device": "images on the device", "start_method": "start method"}
"""Of the choice that tells more than the setting does, where it is not the setting's name."""


def present_values(settings: Mapping[str, object], choices: Mapping[str, object]) -> dict[str, str]:
    """Return what the settings came to, by the choices that were made where they are auto."""
    return {
        name: str(choices.get(_TOPICS.get(name, name), value) if value == "auto" else value)
        for name, value in settings.items()
    }


def find(evidence: Evidence, rules: Sequence[Rule] = RULES, present: Mapping[str, str] | None = None) -> list[Finding]:
    """Return the rules that hold and can be met with a change, in the order of the table, with their evidence.

    Args:
        present: values of the settings, so that nothing is advised that is so already.
    """
    now = present or {}
    found = []
    for rule in rules:
        changes = tuple(change for change in rule.changes if not change.is_made(now.get(change.setting)))
        if changes and rule.holds(evidence):
            found.append(Finding(rule, describe_evidence(rule, evidence), changes))
    return found


def describe_evidence(rule: Rule, evidence: Evidence) -> str:
    """Return the rule's figures in words, as far as they are known."""
    names = [condition.figure for condition in rule.when] + list(rule.also)
    known = [name for name in names if evidence.get(name, nan) == evidence.get(name, nan)]
    return ", ".join(EVIDENCE_WORDS[name].format(evidence[name]) for name in known if name in evidence)


def describe_trial(
    path: Path, grid_g_per_kwh: float = WORLD_G_PER_KWH, present: Mapping[str, str] | None = None
) -> dict[str, Cell]:
    """Return the figures of `HARDWARE_FIGURES` for a log; see `summarise`, `find` and `read_trace`."""
    trace = read_trace(path)
    summary = summarise(trace, grid_g_per_kwh)
    names = ", ".join(finding.rule.name for finding in find(gather_evidence(trace), present=present))
    return {**summary, "findings": names or None}


def describe_change(change: Change) -> str:
    """Return the change in words, for instance ``xla=on (fewer, larger kernels)``."""
    return f"{change.setting}{f'={change.value}' if change.value else ''} ({change.words})"
