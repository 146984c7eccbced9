"""Measures, once, which precision, compilation, batch and input pipeline train fastest on this machine.

Greedy: it starts from the simplest value of each factor, and tries each in turn with the best of those before.
"""

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mloptimizer.config.conflicts import find_conflict
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError
from mloptimizer.core.events import Decision
from mloptimizer.core.locks import hold_lock
from mloptimizer.core.nouns import DatasetInfo, to_json
from mloptimizer.core.words import utc_now
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.store.workspace import Workspace
from mloptimizer.training.memory.batch_plan import REFERENCE_BATCH, largest_automatic_batch
from mloptimizer.tuning.measured_model import choose_model
from mloptimizer.tuning.measurement import Machine, Measurement, Variant, Workload, measure, this_machine
from mloptimizer.tuning.plans import (
    TuningPlan,
    fill_in,
    find_plan,
    identify_tuning,
    keep_plan,
    tuned_settings,
    with_values,
)

_logger = logging.getLogger(__name__)

LEAST_GAIN = 1.03  # a variant is taken if it is at least this much faster; less is noise, and the simpler one stays
STEPS_ON_GPU, STEPS_ON_CPU = 100, 25  # of an epoch, at most
MEASURED_STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 200, 3, 12  # small data sets get more epochs, for steadier values
DEFAULT_MODEL = "the built-in resnet"
PRECISIONS = {
    "tf32": (8, 0),
    "mixed_bfloat16": (8, 0),
    "mixed_float16": (7, 0),
}  # lowest compute capability that speeds it up

# The values of every factor, in the order of measurement; tuning starts from the first, the simplest.
FACTORS: Mapping[str, tuple[str | int, ...]] = {
    "precision": ("float32", *PRECISIONS),
    "xla": ("off", "on"),
    "batch_size": (REFERENCE_BATCH, 128, 256, 512, 1024),
    "data_on_device": ("off", "on"),
    "steps_per_execution": (1, 8),
    "prefetch_batches": (4, 8),
}


def why_not(precision: str, gpus: Sequence[Gpu]) -> str:
    """Return why the precision cannot be faster on these GPUs; empty: it may be."""
    if not gpus:
        return "a CPU computes it slower than float32"
    known = [gpu.compute_capability for gpu in gpus if gpu.compute_capability]
    needed = PRECISIONS[precision]
    if known and min(known) >= needed:
        return ""
    there = ".".join(map(str, min(known))) if known else "unknown"
    return f"needs compute capability {needed[0]}.{needed[1]}, and this GPU's is {there}"


def run_tuning(
    workspace: Workspace,
    dataset: DatasetInfo,
    settings: Settings,
    machine: Machine,
    *,
    space: str | None = None,
    again: bool = False,
) -> tuple[TuningPlan, bool]:
    """Return the plan for this machine, data set and settings, and whether it was measured now, not known before.

    Args:
        space: measure a model of this search space, instead of the fixed one.
        again: measure even if there is a plan.

    Raises:
        UsageError: an unknown space, or another process is tuning in this workspace.
        RunError: the starting point cannot be trained.
    """
    identity, model = identify_tuning(machine, dataset, settings), space or DEFAULT_MODEL
    chosen, params = choose_model(space, dataset, workspace.search_spaces)
    known = None if again else find_plan(workspace, identity, model)
    if known:
        return known, False
    busy = "tuning: {holder}, is measuring already. Wait for it, or turn tuning off with --set autotune=off."
    with hold_lock(workspace.tuning_file.with_suffix(".lock"), busy):
        cap = STEPS_ON_GPU if machine.gpus else STEPS_ON_CPU
        steps = min(cap, max(1, dataset.train_size // REFERENCE_BATCH))
        epochs = min(max(FEWEST_EPOCHS, 1 + math.ceil(MEASURED_STEPS / steps)), MOST_EPOCHS)
        found = _Tuning(Workload(chosen, params, dataset, epochs, cap), settings, machine).find()
        plan = TuningPlan(identity, model, **found, tuned_utc=utc_now("seconds"))
        keep_plan(workspace, plan)
    return plan, True


class _Tuning:
    """One tuning: its starting point and what was measured."""

    def __init__(self, workload: Workload, settings: Settings, machine: Machine) -> None:
        self._workload, self._settings, self._machine = workload, settings, machine
        self._images = settings.exploration_epochs * workload.dataset.train_size
        self._rows: list[dict[str, Any]] = []
        self._left_to_auto: set[str] = set()  # factors whose best value depends on how long a training is
        start = {name: values[0] for name, values in FACTORS.items() if getattr(settings, name) == "auto"}
        self._start = {} if find_conflict(settings.model_copy(update=start)) else start

    def find(self) -> Mapping[str, Any]:
        """Measure the factors in turn, then the start and the best again; return the fields of the plan."""
        best = self._measure("start", self._start)
        if best.failure:
            raise RunError(f"tuning: the starting point could not be trained ({best.failure}).")
        values = dict(self._start)
        for name in FACTORS:
            best, values = self._try_factor(name, best, values)
        speed_up = self._compare(values) if values != self._start else 1.0
        if speed_up < LEAST_GAIN:  # the gain was noise: the simplest settings stay
            for row in self._rows:
                row["finding"] = row["finding"].replace("taken", "not faster when measured again")
            values, speed_up = dict(self._start), 1.0
        decisions = {name: value for name, value in values.items() if name not in self._left_to_auto}
        return {"decisions": decisions, "speed_up": speed_up, "images": self._images, "rows": tuple(self._rows)}

    def _try_factor(
        self, name: str, best: Measurement, values: dict[str, str | int]
    ) -> tuple[Measurement, dict[str, str | int]]:
        """Measure a factor's values in turn; return the best measurement so far with its values."""
        for value, impossible in self._candidates(name):
            changed = {**values, name: value}
            found = self._measure(f"{name} = {value}", changed, impossible)
            finding = self._judge(found, best, name)
            if finding == "taken" and name not in self._start:
                finding = f"faster, but {name} = {getattr(self._settings, name)} is set"
            self._rows[-1]["finding"] = finding
            if finding == "taken":
                best, values = found, changed
            if name == "batch_size" and found.failure:
                break  # the next is larger
        return best, values

    def _candidates(self, name: str) -> list[tuple[str | int, str]]:
        """Return the values of a factor to measure, each with the reason if it is impossible here."""
        if name == "batch_size" and (name in self._start or self._machine.gpus):
            present = self._start.get(name, self._settings.batch_size)
            replicas = self._settings.gpus_per_trial if self._settings.gpus_per_trial != "auto" else 1
            most = largest_automatic_batch(self._workload.dataset.train_size, replicas)
            return [(size, "") for size in FACTORS[name] if isinstance(present, int) and present < int(size) <= most]
        no_xla = self._settings.deterministic or self._settings.check_numerics
        if name not in self._start or (name == "xla" and no_xla):
            return []
        gpus, is_precision = self._machine.gpus, name == "precision"
        return [(value, why_not(str(value), gpus) if is_precision else "") for value in FACTORS[name][1:]]

    def _measure(self, name: str, values: Mapping[str, object], impossible: str = "") -> Measurement:
        variant = Variant(name, with_values(self._settings, values), values, impossible)
        found = measure(self._workload, variant, self._machine)
        self._rows.append({**to_json(found), "finding": ""})
        _logger.info("tuning: %s: %s", name, found.failure or f"{found.images_per_second:.0f} images/s")
        return found

    def _judge(self, found: Measurement, best: Measurement, name: str) -> str:
        """Return the finding: taken if it is `LEAST_GAIN` times as fast at its steady pace and over a whole trial.

        Both, because a short start-up alone is no gain, and neither is compiling that a trial never earns back.
        """
        if found.failure or (name == "xla" and found.choices.get("XLA") == "off"):
            return found.failure or "no: compiling failed"
        steady = (found.images_per_second or 0.0) / (best.images_per_second or math.inf)
        whole = found.images_per_second_over(self._images) / best.images_per_second_over(self._images)
        if steady >= LEAST_GAIN and whole < LEAST_GAIN and name == "xla":
            self._left_to_auto.add(name)
            return f"no: {steady:.2f} × at its steady pace, {whole:.2f} × with compiling; left to each training"
        return "taken" if min(steady, whole) >= LEAST_GAIN else "no"

    def _compare(self, values: Mapping[str, object]) -> float:
        """Return the speed-up of the values over the start: the medians of two more measurements of each, in turn."""
        speeds: dict[str, list[float]] = {"start again": [], "all taken again": []}
        for name, changes in (("start again", self._start), ("all taken again", values)) * 2:
            speeds[name].append(self._measure(name, changes).images_per_second_over(self._images))
        start, best = map(statistics.median, speeds.values())
        return best / start if start else 1.0


def apply_tuning(
    workspace: Workspace,
    dataset: DatasetInfo,
    settings: Settings,
    find_machine: Callable[[], Machine] = this_machine,
    kept: Mapping[str, object] | None = None,
) -> tuple[Settings, list[Decision]]:
    """Return the settings that a search trains with, and why: a stored plan's values replace those that are ``auto``.

    If there is no such plan, it is measured first, if `autotune` is on, or auto on a machine with GPUs. A tuning that
    fails leaves the settings as they are.

    Args:
        kept: values that the study was tuned to when it began; they count instead of any plan, so that a resumed study
            trains as before. None: it was not tuned yet.

    Raises:
        UsageError: another process is tuning in this workspace, or the stored plans are damaged.
    """
    if kept is not None:
        return fill_in(settings, kept, "as the study was tuned when it began")
    if settings.autotune == "off" or settings.engine == "ray":  # other machines train
        return settings, []
    machine = find_machine()
    plan = find_plan(workspace, identify_tuning(machine, dataset, settings))
    if plan is None and (settings.autotune == "on" or machine.gpus):
        _logger.info("Tuning for this machine, once; --set autotune=off skips it.")
        try:
            plan, _ = run_tuning(workspace, dataset, settings, machine)
        except RunError as error:
            return settings, [Decision(None, "tuned plan", "none", str(error))]
    return tuned_settings(settings, plan) if plan else (settings, [])
