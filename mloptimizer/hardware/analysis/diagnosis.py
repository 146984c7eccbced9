"""Explains what slows a trial down, and which setting to change: one table of rules over metrics of its log.

A rule holds only if the log provides its metrics. If no rule holds, nothing is found, and the report says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Literal

from mloptimizer.hardware.analysis.evidence import EVIDENCE_TEXTS, Evidence, gather_evidence
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH
from mloptimizer.hardware.analysis.summary import SUMMARY_METRICS, summarise
from mloptimizer.hardware.analysis.trace import read_trace
from mloptimizer.hardware.columns import Cell

_HALF_PRECISIONS = ("mixed_float16", "mixed_bfloat16")


@dataclass(frozen=True)
class Condition:
    """A metric that is at least, or at most, a limit."""

    metric: str
    sign: Literal["≥", "≤"]
    limit: float

    def holds(self, evidence: Evidence) -> bool:
        value = evidence.get(self.metric, nan)
        return value >= self.limit if self.sign == "≥" else value <= self.limit


@dataclass(frozen=True)
class Change:
    """A setting to change, and its new value; None: a number that depends on the trial, `words` say which way."""

    setting: str
    value: str | None
    words: str

    def is_made(self, present: str | None) -> bool:
        """Return whether the setting has the value, or an equally good one."""
        if self.setting == "start_method" and present == "auto":
            return True  # auto means forkserver, unless a choice says otherwise
        return present is not None and (present == self.value or {present, self.value} <= set(_HALF_PRECISIONS))


@dataclass(frozen=True)
class Rule:
    """What slows a trial down; it holds if all its conditions do."""

    name: str
    meaning: str
    when: tuple[Condition, ...]
    changes: tuple[Change, ...]
    also: tuple[str, ...] = ()  # metrics reported with those of the conditions


@dataclass(frozen=True)
class Finding:
    """A rule that holds, with its evidence in words."""

    rule: Rule
    evidence: str
    changes: tuple[Change, ...] = ()  # of the rule, without those already made


RULES: tuple[Rule, ...] = (
    # A third: avoiding it would make one trial in three free; less is the price of a graph, and hard to avoid
    Rule("compile-bound", "tracing and compiling take long compared with the training",
         (Condition("compile_percent", "≥", 33),),
         (Change("xla", "off", "such a short training does not repay compilation"),)),
    # 20 %: from there TensorFlow's profiler calls a program highly input-bound (kHighlyInfeedBoundThresholdInPercent)
    Rule("input-bound", "the training waits for its images",
         (Condition("data_wait_percent", "≥", 20),),
         (Change("data_on_device", "on", "augments the images on the model's device"),
          Change("data_cache", "memory", "reads the images from disk only once"),
          Change("prefetch_batches", "8", "keeps more batches ready"),
          Change("randaugment_magnitude", "0", "skips the most expensive augmentation"))),
    # 50 %: busy by NVML's count, for which a tiny kernel counts as much as a large one. 40 % of the power limit: idle
    # data-centre GPUs draw 10 to 15 %, those that multiply large matrices 70 to 100 %. 20 % memory: they do not move
    # much data either. 20 ms: launching takes 5 to 10 us per operation, so launching the 2,000 or so operations of a
    # small network's step takes that long, whatever they compute
    Rule("launch-bound", "the GPU runs kernels that are too small to fill it",
         (Condition("gpu_utilization_percent", "≥", 50), Condition("gpu_power_percent", "≤", 40),
          Condition("gpu_memory_utilization_percent", "≤", 20), Condition("step_ms", "≤", 20)),
         (Change("batch_size", "auto", "more images per kernel"),
          Change("steps_per_execution", "32", "more steps per call"),
          Change("xla", "on", "fewer, larger kernels"),
          Change("trials_per_gpu", "auto", "several trials fill the GPU together"))),
    # NVML counts the time in which memory was read or written like the time in which a kernel ran. 70 % of the former
    # within 70 % of the latter: no published limit; below it, the kernels compute more than they move
    Rule("memory-bound", "the kernels wait for the GPU's memory",
         (Condition("gpu_utilization_percent", "≥", 70), Condition("memory_to_kernels_percent", "≥", 70)),
         (Change("precision", "mixed_bfloat16", "half the bytes; mixed_float16 before Ampere"),
          Change("xla", "on", "operations compiled into one kernel exchange nothing through memory")),
         also=("gpu_memory_utilization_percent",)),
    # A GPU at its power limit lowers its clocks a little, as it should: only from 10 % of the clock, for a fifth of the
    # time, is the cost above the noise between two runs
    Rule("throttled", "heat or the power limit slows the GPU down",
         (Condition("throttled_percent", "≥", 20), Condition("sm_clock_percent", "≤", 90)),
         (Change("precision", "mixed_bfloat16", "less power for the same work; mixed_float16 before Ampere. "
                 "Outside mloptimizer: better cooling, or a higher power limit (nvidia-smi -pl)"),),
         also=("temperature_c", "gpu_power_percent")),
    # Half idle although images are ready (5 %: from there TensorFlow's profiler calls a program moderately input-bound)
    # and half the memory free: twice the batch fits
    Rule("batch too small", "the GPU idles between steps, and its memory is half empty",
         (Condition("gpu_utilization_percent", "≤", 50), Condition("gpu_memory_percent", "≤", 50),
          Condition("data_wait_percent", "≤", 5)),
         (Change("batch_size", "auto", "the fastest that fits"),
          Change("trials_per_gpu", "auto", "several trials fill the GPU together")),
         also=("step_ms",)),
    # Replicas wait for the slowest at every step: a fifth of the time is one GPU in five lost
    Rule("imbalance between GPUs", "some of the trial's GPUs wait for the others",
         (Condition("gpus", "≥", 2), Condition("gpu_spread_percent", "≥", 20)),
         (Change("gpus_per_trial", "1", "gives each GPU its own trial"),)),
    # Full cores (90 %: the scheduler has the rest), with a quarter of them used by others: with all of them, the trial
    # would be a third faster
    Rule("CPU oversubscribed", "other programs use the trial's cores",
         (Condition("slot_busy_percent", "≥", 90), Condition("others_percent", "≥", 25)),
         (Change("workers", None, "fewer, or end other programs on this machine"),)),
)  # fmt: skip
"""The rules for every trial, in the order in which findings are reported: first what slows the whole trial, then what
slows its training."""

# 15 %: more than starting a process (2 to 4 s) costs a trial of half a minute
IDLE_BETWEEN = Rule(
    "idle between trials", "slots wait for the next trial, or for its process to start",
    (Condition("idle_between_percent", "≥", 15),),
    (Change("exploration_epochs", None, "more: longer trials start less often"),
     Change("start_method", "forkserver", "starts processes in a fraction of the time")),
)  # fmt: skip
"""The rule for a study as a whole."""

HARDWARE_METRICS: Mapping[str, str] = {
    **SUMMARY_METRICS,
    "findings": "findings of `mloptimizer diagnose` in the log, separated by commas; null: none",
}
"""The meaning of each metric of `describe_trial`, with its unit."""

_TOPICS = {"xla": "XLA", "data_on_device": "images on the device", "start_method": "start method"}
"""By setting, the topic of the choice made for it, if that is not the setting's name."""


def present_values(settings: Mapping[str, object], choices: Mapping[str, object]) -> dict[str, str]:
    """Return the settings' values, with the choices made for those that are auto."""
    return {
        name: str(choices.get(_TOPICS.get(name, name), value) if value == "auto" else value)
        for name, value in settings.items()
    }


def find(evidence: Evidence, rules: Sequence[Rule] = RULES, present: Mapping[str, str] | None = None) -> list[Finding]:
    """Return the rules that hold and have a change to advise, in the order of the table, with their evidence.

    Args:
        present: values of the settings; changes that are already made are not advised.
    """
    now = present or {}
    found = []
    for rule in rules:
        changes = tuple(change for change in rule.changes if not change.is_made(now.get(change.setting)))
        if changes and all(condition.holds(evidence) for condition in rule.when):
            names = [*(condition.metric for condition in rule.when), *rule.also]
            known = [name for name in names if not isnan(evidence.get(name, nan))]
            found.append(
                Finding(rule, ", ".join(EVIDENCE_TEXTS[name].format(evidence[name]) for name in known), changes)
            )
    return found


def describe_trial(
    path: Path, grid_g_per_kwh: float = WORLD_G_PER_KWH, present: Mapping[str, str] | None = None
) -> dict[str, Cell]:
    """Return the metrics of `HARDWARE_METRICS` for a log; see `summarise`, `find` and `read_trace`."""
    trace = read_trace(path)
    summary = summarise(trace, grid_g_per_kwh)
    names = ", ".join(finding.rule.name for finding in find(gather_evidence(trace), present=present))
    return {**summary, "findings": names or None}


def describe_change(change: Change) -> str:
    """Return the change in words, for instance ``xla=on (fewer, larger kernels)``."""
    return f"{change.setting}{f'={change.value}' if change.value else ''} ({change.words})"
