"""Puts trainings side by side: a row for each study or file, machine and number of GPUs, and what the rows say of
each other.

Speeds are compared between trainings of the same model alone. The figures of a row are medians (speed, time) and means
(power, energy, cost) over its trainings; what none of them tells is None.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from mloptimizer.core.errors import UsageError
from mloptimizer.reports.formatting import is_figure
from mloptimizer.reports.model.trainings import COMPARED, Training

_MANY = 3  # values of a setting that are named
_MODEL, _SCALED_MODEL = attrgetter("model"), attrgetter("scaled_model")


@dataclass(frozen=True)
class Pairs:
    """How much faster trainings are than others of the same models: the geometric mean over so many models."""

    ratio: float | None = None
    count: int = 0


@dataclass(frozen=True)
class ComparedRow:
    """Trainings of one study or file, on one machine, with so many GPUs each."""

    source: str
    machine: Mapping[str, Any]
    gpus: int | None  # None: its records do not tell
    cores: int | None
    trainings: int
    settings: Mapping[str, str]  # several values of one joined by /
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
    price_per_hour: float | None = None
    cost_per_trial: float | None = None
    cost_per_million_images: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The rows, and in lines what could not be read."""

    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...]

    def differing_settings(self) -> list[str]:
        """Return the names of the settings that are not the same in all rows that tell them."""
        return [name for name in COMPARED if len({row.settings[name] for row in self.rows if row.settings[name]}) > 1]


def compare(trainings: Sequence[Training], notes: Sequence[str], prices: Mapping[str, float]) -> Comparison:
    """Return the trainings by source, machine and number of GPUs, in the order in which they come.

    Args:
        prices: per hour, by source; "" for those that are not named. The price is that of one GPU, or, of a training
            without GPUs, of the whole machine, of which it pays for its share of the cores.
    """
    groups = _by(trainings, lambda one: (one.source, one.host, _versions(one.machine), one.gpus, _apart(one)))
    first = next(iter(groups.values()), [])
    alone = _by((training for training in trainings if training.gpus == 1), _SCALED_MODEL)
    rows = (_row(group, first, alone, prices.get(group[0].source, prices.get(""))) for group in groups.values())
    return Comparison(tuple(rows), tuple(notes))


def _versions(machine: Mapping[str, Any]) -> str:
    """Return what tells two states of a machine apart, such as another driver; its memory differs a little by boot."""
    return str({name: value for name, value in machine.items() if name not in ("since_utc", "ram_mb")})


def _apart(training: Training) -> str:
    """Return what else tells runs of a benchmark apart, which are few and each its own; trainings of a study join."""
    return "" if training.seconds is not None else training.settings.get("precision", "")


def _row(
    group: Sequence[Training], first: Sequence[Training], alone: Mapping[tuple[str, ...], Sequence[Training]],
    price: float | None,
) -> ComparedRow:  # fmt: skip
    one = group[0]
    speed, power = _over(group, "images_per_second", statistics.median), _over(group, "power_w", statistics.fmean)
    share = _paid_share(one)
    row = ComparedRow(
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
    )
    return row if price is None or share is None else _with_cost(row, group, price)


def _with_cost(row: ComparedRow, group: Sequence[Training], price: float) -> ComparedRow:
    costs = [
        price * training.seconds / 3600 * share
        for training in group
        if training.seconds is not None and (share := _paid_share(training)) is not None
    ]
    paced = [
        price / 3600 * share * 1e6 / training.images_per_second
        for training in group
        if training.images_per_second and (share := _paid_share(training)) is not None
    ]
    return replace(
        row,
        cost_per_trial=statistics.fmean(costs) if costs else None,
        cost_per_million_images=statistics.median(paced) if paced else None,
    )


def _paid_share(training: Training) -> float | None:
    """Return how many GPUs the training pays for, or without GPUs which share of the machine; None: unknown."""
    if training.gpus:
        return training.gpus / training.shared_by
    cores = training.machine.get("cores")
    if training.gpus is None or not training.cores or not is_figure(cores) or cores <= 0:
        return None
    return min(1.0, training.cores / cores)


def _over(group: Iterable[Training], name: str, mean: Callable[[list[float]], float]) -> float | None:
    figures = [value for training in group if (value := getattr(training, name)) is not None]
    return mean(figures) if figures else None


def _join(values: Iterable[str]) -> str:
    known = sorted(set(values))
    return "/".join(known) if len(known) <= _MANY else f"{len(known)} values"


def _by(trainings: Iterable[Training], key: Callable[[Training], Any]) -> dict[Any, list[Training]]:
    found: dict[Any, list[Training]] = {}
    for training in trainings:
        found.setdefault(key(training), []).append(training)
    return found


def _pair(
    group: Sequence[Training],
    others: Mapping[Any, Sequence[Training]],
    key: Callable[[Training], Any],
    times: int | None,
) -> Pairs:
    """Return how much faster the group trains than `times` the others, over the models that both have trained."""
    ratios = []
    for model, mine in _by(group, key).items():
        speed = _over(mine, "images_per_second", statistics.fmean)
        theirs = _over(others.get(model, ()), "images_per_second", statistics.fmean)
        if speed and theirs and times:
            ratios.append(speed / (times * theirs))
    return Pairs(statistics.geometric_mean(ratios), len(ratios)) if ratios else Pairs()


def read_prices(words: Sequence[str], sources: Sequence[str]) -> dict[str, float]:
    """Return the price per hour by source, "" for all others, as PRICE or SOURCE=PRICE state it.

    Raises:
        UsageError: it is no positive number, or the source is not compared.
    """
    prices: dict[str, float] = {}
    for word in words:
        source, _, text = word.rpartition("=")
        if source and source not in sources:
            raise UsageError(
                f"--price-per-hour {word}: {source} is not compared. Possible: {', '.join(dict.fromkeys(sources))}."
            )
        try:
            price = float(text)
        except ValueError:
            price = -1.0
        if not is_figure(price) or price < 0:
            raise UsageError(f"--price-per-hour {word}: is no price. Possible: a number such as 2.5, or STUDY=2.5.")
        prices[source] = price
    return prices
