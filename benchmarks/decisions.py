"""What a trial costs the driver in a long study: proposing it, handling its eight epochs, storing its result.

    python -m benchmarks.decisions [--trials 100 1000 10000] [--rounds 25]

The studies hold trials of the built-in spaces, as a search would have left them, in a journal on disk and in memory.
Sizes take turns, so that a busy machine slows them all equally. The memory is what opening the study adds to the
resident size of this process.
"""

import argparse
import contextlib
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from benchmarks.sampler_group import DATASET, surface
from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import Objective, Outcome, TrialResult
from mloptimizer.spaces.space_files import SearchSpace, read_spaces
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study, open_study

EPOCHS = 8
CHUNK = 250  # trials per filling study: short studies are fast
OBJECTIVE = Objective("val_accuracy")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=25)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        spaces = read_spaces([], Path(folder))
        filling = make_filling(spaces, max(asked.trials))
        table = Table("storage", "finished", "ask", "8 reports", "tell", "total", "relative to first", "memory")
        for kind in ("journal", "memory"):
            for row in compare(kind, filling, spaces, asked, Settings()):
                table.add_row(kind, *row)
    Console(width=120).print(table)


def make_filling(spaces: Sequence[SearchSpace], trials: int) -> list[FrozenTrial]:
    """Return finished trials as a search leaves them, from short studies with a random sampler."""
    found: list[FrozenTrial] = []
    settings = Settings(sampler="random", spaces=(), trials=trials)
    while len(found) < trials:
        storage = InMemoryStorage()
        study = _new_study(storage, settings, seed=len(found))
        for _ in range(min(CHUNK, trials - len(found))):
            decide(study, spaces, random.Random(len(found)))
        found += storage.get_all_trials(0)
    return found


def compare(
    kind: str, filling: list[FrozenTrial], spaces: Sequence[SearchSpace], asked: argparse.Namespace, settings: Settings
) -> Iterator[tuple[str, ...]]:
    """Yield a row for each size of study."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack():
        studies, grown = {}, {}
        for trials in asked.trials:
            before = resident_mb()
            studies[trials] = _fill(kind, Path(folder) / f"{trials}.journal", filling[:trials], settings)
            grown[trials] = resident_mb() - before
        noise = random.Random(1)
        times: dict[int, list[tuple[float, float, float]]] = {trials: [] for trials in asked.trials}
        for _ in range(asked.rounds):
            for trials, study in studies.items():
                times[trials].append(decide(study, spaces, noise))
    first = None
    for trials, rounds in times.items():
        parts = [statistics.median(part) * 1000 for part in zip(*rounds, strict=True)]
        together = statistics.median(sum(parts) for parts in rounds) * 1000
        first = first or together
        yield (
            f"{trials:,}",
            *(f"{part:.1f} ms" for part in (*parts, together)),
            f"{together / first:.2f} x",
            f"{grown[trials]:.0f} MB",
        )


def decide(study: Study, spaces: Sequence[SearchSpace], noise: random.Random) -> tuple[float, float, float]:
    """Propose a trial, report its epochs and finish it; return the seconds of each of the three."""
    started = time.perf_counter()
    suggestion = study.ask(spaces, DATASET)
    asked = time.perf_counter()
    if suggestion is None or suggestion.failure:
        sys.exit(f"the spaces cannot be sampled: {suggestion}")
    value = surface(suggestion.space, suggestion.params) + noise.gauss(0, 0.005)
    pruned = False
    for epoch in range(1, EPOCHS + 1):
        pruned |= study.report(suggestion.number, epoch, value * (1 - 0.6**epoch))
    reported = time.perf_counter()
    outcome = Outcome.PRUNED if pruned else Outcome.COMPLETED
    metrics = {"val_accuracy": value, "loss": 1 - value, "val_loss": 1 - value, "accuracy": value}
    study.finish(TrialResult(suggestion.number, outcome, None if pruned else value, 1.0, metrics))
    return asked - started, reported - asked, time.perf_counter() - reported


def _fill(kind: str, path: Path, filling: list[FrozenTrial], settings: Settings) -> Study:
    if kind == "memory":
        storage: BaseStorage = InMemoryStorage()
        _new_study(storage, settings, seed=1, filling=filling)
        return _new_study(storage, settings, seed=1)
    _new_study(open_storage("", path), settings, seed=1, filling=filling)
    gc.collect()
    return open_study("", path, "s", settings, 1, OBJECTIVE)


def _new_study(storage: BaseStorage, settings: Settings, seed: int, filling: Sequence[FrozenTrial] = ()) -> Study:
    if not storage.get_all_studies():
        made = optuna.create_study(storage=storage, study_name="s", direction="maximize")
        for name, fact in {"objective": OBJECTIVE.metric, "seed": seed}.items():
            made.set_user_attr(name, fact)
    made = optuna.load_study(storage=storage, study_name="s")
    made.add_trials(filling)
    study = Study("", Path(), storage, "s")
    study.prepare(settings, seed)
    return study


def resident_mb() -> float:
    """Return the resident memory of this process, MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
