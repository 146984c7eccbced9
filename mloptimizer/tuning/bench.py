"""Measures before and after on this machine: the plain training, each optimisation alone, and all of them together.

The plain training is measured first and last: the difference between the two is the noise of the others.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mloptimizer.config.conflicts import find_conflict
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.tuning.measurement import Machine, Measurement, Variant, Workload, measure
from mloptimizer.tuning.plans import with_values
from mloptimizer.tuning.tune import LEAST_GAIN, PRECISIONS, why_not

BASELINE = "baseline"
BASELINE_AGAIN = "baseline again"


@dataclass(frozen=True)
class BenchResult:
    """The measurements so far, in order, and how they compare."""

    rows: tuple[Measurement, ...]

    @property
    def baseline(self) -> float | None:
        """Images per second of the baseline, the mean of its measurements."""
        speeds = self._baseline_speeds()
        return sum(speeds) / len(speeds) if speeds else None

    @property
    def noise_percent(self) -> float | None:
        """Difference between the two measurements of the baseline, in % of their mean; None before the second."""
        speeds = self._baseline_speeds()
        return 100 * abs(speeds[0] - speeds[1]) / (sum(speeds) / 2) if len(speeds) == 2 else None

    def ratio(self, row: Measurement) -> float | None:
        """Return the row's images per second divided by the baseline's."""
        return row.images_per_second / self.baseline if row.images_per_second and self.baseline else None

    def _baseline_speeds(self) -> list[float]:
        rows = [row for row in self.rows if row.name in (BASELINE, BASELINE_AGAIN)]
        return [row.images_per_second for row in rows if row.images_per_second]


@dataclass(frozen=True)
class Optimisation:
    """One thing to switch on; `impossible` says why this machine cannot use it."""

    name: str
    changes: Mapping[str, object]
    impossible: str = ""
    for_speed: bool = True  # else it saves memory, or shows what something costs


def list_optimisations(gpus: Sequence[Gpu]) -> list[Optimisation]:
    """Return everything that the bench switches on one at a time, including what this machine cannot do."""
    precisions = [Optimisation(name, {"precision": name}, why_not(name, gpus)) for name in PRECISIONS]
    single = "" if len(gpus) > 1 else f"this machine has {len(gpus) or 'no'} GPU"
    without = "only without GPUs, to try several devices" if gpus else ""
    return [
        Optimisation("XLA", {"xla": "on"}),
        *precisions,
        Optimisation("images on the device", {"data_on_device": "on"}),
        Optimisation("8 steps per call", {"steps_per_execution": 8}),
        Optimisation("8 batches ahead", {"prefetch_batches": 8}),
        Optimisation("automatic batch", {"batch_size": "auto"}),
        Optimisation("all GPUs", {"gpus_per_trial": len(gpus)}, single),
        Optimisation("2 logical CPUs", {"cpu_replicas": 2}, without, for_speed=False),
        Optimisation("images from disk", {"data_cache": "disk"}, for_speed=False),
        Optimisation("4 micro-batches", {"accumulation_steps": 4}, for_speed=False),
        Optimisation("rematerialisation", {"remat": "on"}, for_speed=False),
    ]


def bench_settings(stated: Mapping[str, object], base: Settings, gpus: Sequence[Gpu]) -> Settings:
    """Return the settings of the baseline: the profile basic, on one GPU if there are any, and the stated settings.

    Raises:
        UsageError: an unknown name, an impossible value, or a profile.
    """
    if "profile" in stated:
        raise UsageError("--set profile: the bench compares profiles itself. Possible: any other setting.")
    settings = make_settings({"profile": "basic", **stated}, "--set", base)
    single = {"gpus_per_trial": 1} if gpus and settings.gpus_per_trial == "auto" else {}
    return with_values(settings, single)


def run_bench(
    workload: Workload, settings: Settings, machine: Machine, tell: Callable[[BenchResult], None]
) -> BenchResult:
    """Measure the baseline, every optimisation alone, profiles, all that helped, everything, the baseline again.

    Raises:
        RunError: the baseline could not be trained, so there is nothing to compare with.
    """
    rows: list[Measurement] = []
    for variant in _variants(settings, machine, rows):
        rows.append(measure(workload, variant, machine))
        tell(BenchResult(tuple(rows)))
        if rows[0].failure:
            raise RunError(f"bench: the baseline could not be trained ({rows[0].failure}).")
    return BenchResult(tuple(rows))


def _variants(settings: Settings, machine: Machine, measured: Sequence[Measurement]) -> Iterator[Variant]:
    """Yield what to measure next; each variant is in `measured` when the next one is asked for."""
    yield Variant(BASELINE, settings)
    optimisations = list_optimisations(machine.gpus)
    for one in optimisations:
        yield _variant(one.name, one.changes, settings, one.impossible)
    for profile in ("balanced", "memory"):
        row = make_settings({"profile": profile}, "bench", settings)
        yield Variant(f"profile {profile}", row, {"profile": profile})
    for_speed = [one for one in optimisations if one.for_speed]
    helped = _changes_that_helped(BenchResult(tuple(measured)), {one.name for one in for_speed})
    yield _variant("all that helped", helped, settings, "" if helped else "nothing alone was 3 % faster")
    everything = _merged(one.changes for one in for_speed if not one.impossible)
    yield _variant("everything for speed", everything, settings)
    yield Variant(BASELINE_AGAIN, settings)


def _changes_that_helped(measured: BenchResult, names: Collection[str]) -> Mapping[str, object]:
    """Return the changes of these rows that were faster; if two change the same setting, those of the faster one."""
    ratios = [(measured.ratio(row) or 0.0, row.changes) for row in measured.rows if row.name in names]
    return _merged(changes for ratio, changes in sorted(ratios, key=lambda pair: pair[0]) if ratio >= LEAST_GAIN)


def _merged(parts: Iterable[Mapping[str, object]]) -> dict[str, object]:
    return {name: value for changes in parts for name, value in changes.items()}


def _variant(name: str, changes: Mapping[str, object], settings: Settings, impossible: str = "") -> Variant:
    """Return the settings with the changes, or why they are impossible."""
    if not impossible and all(getattr(settings, key) == value for key, value in changes.items()):
        impossible = "set for all"
    impossible = impossible or find_conflict(settings.model_copy(update=dict(changes)))
    return Variant(name, settings if impossible else with_values(settings, changes), changes, impossible)
