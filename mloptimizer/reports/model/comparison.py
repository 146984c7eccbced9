"""Compares trainings: groups them by study or file, machine and number of GPUs, and relates the groups to each other.

Only trainings of the same model are compared by speed. A row's values are medians (speed, time) and means (power,
energy, cost) over its trainings; a value that none of them has is None.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from mloptimizer.core.errors import UsageError
from mloptimizer.reports.formatting import is_number
from mloptimizer.reports.model.trainings import COMPARED, Training

_MOST_VALUES = 3  # of a setting; of more, only their number is shown
_MODEL, _SCALED_MODEL = attrgetter("model"), attrgetter("scaled_model")


@dataclass(frozen=True)
class Pairs:
    """How much faster trainings are than others of the same models: the geometric mean over `count` models."""

    ratio: float | None = None
    count: int = 0


@dataclass(frozen=True)
class ComparedRow:
    """Trainings of one study or file, on one machine, with the same number of GPUs each."""

    source: str
    machine: Mapping[str, Any]
    gpus: int | None  # None: unknown
    cores: int | None
    trainings: int
    settings: Mapping[str, str]  # different values of one setting are joined by /
    images_per_second: float | None
    seconds_per_epoch: float | None
    power_w: float | None
    wh_per_trial: float | None
    wh_per_1000_images: float | None
    gpu_percent: float | None
    startup_s: float | None
    ram_mb: float | None  # the highest peak
    gpu_memory_mb: float | None
    noise_percent: float | None
    against_first: Pairs  # images per second over those of the first row
    scaling: Pairs  # images per second on n GPUs over n times those on one
    price_per_hour: float | None
    cost_per_trial: float | None
    cost_per_million_images: float | None


@dataclass(frozen=True)
class Comparison:
    """The rows, and a line for each thing that could not be read."""

    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...]

    def differing_settings(self) -> list[str]:
        """Return the names of the settings that differ between rows, as far as they are known."""
        return [name for name in COMPARED if len({row.settings[name] for row in self.rows if row.settings[name]}) > 1]


def compare(trainings: Sequence[Training], notes: Sequence[str], prices: Mapping[str, float]) -> Comparison:
    """Return the trainings by source, machine and number of GPUs, in the order in which they come.

    Args:
        prices: per hour, by source; "" for all others. The price is that of one GPU; a training without GPUs pays for
            its share of the cores of a machine of that price.
    """
    groups = _by(trainings, lambda one: (one.source, one.host, _versions(one.machine), one.gpus, _run_of(one)))
    first = next(iter(groups.values()), [])
    alone = _by((training for training in trainings if training.gpus == 1), _SCALED_MODEL)
    rows = (_row(group, first, alone, prices.get(group[0].source, prices.get(""))) for group in groups.values())
    return Comparison(tuple(rows), tuple(notes))


def _versions(machine: Mapping[str, Any]) -> str:
    """Return what distinguishes two states of a machine, such as another driver; its memory varies a little by boot."""
    return str({name: value for name, value in machine.items() if name not in ("since_utc", "ram_mb")})


def _run_of(training: Training) -> str:
    """Return what separates the runs of a benchmark, which get a row each; the trainings of a study share one."""
    return "" if training.seconds is not None else training.settings.get("precision", "")


def _row(
    group: Sequence[Training], first: Sequence[Training], alone: Mapping[tuple[str, ...], Sequence[Training]],
    price: float | None,
) -> ComparedRow:  # fmt: skip
    one = group[0]
    speed, power = _over(group, "images_per_second", statistics.median), _over(group, "power_w", statistics.fmean)
    cost_per_trial, cost_per_million = (None, None) if price is None else _costs(group, price)
    return ComparedRow(
        one.source,
        one.machine,
        one.gpus,
        one.cores,
        len(group),
        {name: _join(training.settings.get(name, "") for training in group) for name in COMPARED},
        images_per_second=speed,
        seconds_per_epoch=_over(group, "seconds_per_epoch", statistics.median),
        power_w=power,
        wh_per_trial=_over(group, "energy_wh", statistics.fmean),
        wh_per_1000_images=power / speed / 3.6 if power is not None and speed else None,
        gpu_percent=_over(group, "gpu_percent", statistics.fmean),
        startup_s=_over(group, "startup_s", statistics.median),
        ram_mb=_over(group, "ram_mb", max),
        gpu_memory_mb=_over(group, "gpu_memory_mb", max),
        noise_percent=_over(group, "noise_percent", max),
        against_first=Pairs() if group is first else _pair(group, _by(first, _MODEL), _MODEL, 1),
        scaling=_pair(group, alone, _SCALED_MODEL, one.gpus) if one.gpus and one.gpus > 1 else Pairs(),
        price_per_hour=price,
        cost_per_trial=cost_per_trial,
        cost_per_million_images=cost_per_million,
    )


def _costs(group: Sequence[Training], price: float) -> tuple[float | None, float | None]:
    """Return what a training and what a million images cost."""
    paid = [(one, price / 3600 * share) for one in group if (share := _paid_share(one)) is not None]
    trials = [per_second * one.seconds for one, per_second in paid if one.seconds is not None]
    images = [per_second * 1e6 / one.images_per_second for one, per_second in paid if one.images_per_second]
    return statistics.fmean(trials) if trials else None, statistics.median(images) if images else None


def _paid_share(training: Training) -> float | None:
    """Return how many GPUs the training pays for, or without GPUs which share of the machine; None: unknown."""
    if training.gpus:
        return training.gpus / training.shared_by
    cores = training.machine.get("cores")
    if training.gpus is None or not training.cores or not is_number(cores) or cores <= 0:
        return None
    return min(1.0, training.cores / cores)


def _over(group: Iterable[Training], name: str, mean: Callable[[list[float]], float]) -> float | None:
    values = [value for training in group if (value := getattr(training, name)) is not None]
    return mean(values) if values else None


def _join(values: Iterable[str]) -> str:
    known = sorted(set(values))
    return "/".join(known) if len(known) <= _MOST_VALUES else f"{len(known)} values"


def _by(trainings: Iterable[Training], key: Callable[[Training], Any]) -> dict[Any, list[Training]]:
    found: dict[Any, list[Training]] = {}
    for training in trainings:
        found.setdefault(key(training), []).append(training)
    return found


def _pair(
    group: Sequence[Training], others: Mapping[Any, Sequence[Training]], key: Callable[[Training], Any], times: int
) -> Pairs:
    """Return how much faster the group trains than `times` the others, over the models that both have trained."""
    ratios = []
    for model, mine in _by(group, key).items():
        speed = _over(mine, "images_per_second", statistics.fmean)
        if speed and (theirs := _over(others.get(model, ()), "images_per_second", statistics.fmean)):
            ratios.append(speed / (times * theirs))
    return Pairs(statistics.geometric_mean(ratios), len(ratios)) if ratios else Pairs()


def read_prices(words: Sequence[str], sources: Sequence[str]) -> dict[str, float]:
    """Return the price per hour by source, "" for all others, from words such as PRICE or SOURCE=PRICE.

    Raises:
        UsageError: a price is negative or not a number, or its source is not compared.
    """
    prices: dict[str, float] = {}
    for word in words:
        source, _, text = word.rpartition("=")
        if source and source not in sources:
            known = ", ".join(dict.fromkeys(sources))
            raise UsageError(f"--price-per-hour {word}: {source} is not compared. Possible: {known}.")
        try:
            prices[source] = float(text)
        except ValueError:
            prices[source] = -1.0
        if not is_number(prices[source]) or prices[source] < 0:
            raise UsageError(f"--price-per-hour {word}: is not a price. Possible: a number such as 2.5, or STUDY=2.5.")
    return prices
