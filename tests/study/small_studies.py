"""Small search spaces, and short words for what a study is asked and told."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import DatasetInfo, Objective, Outcome, Params, Phase, Scalar, TrialResult
from mloptimizer.spaces.space_files import SearchSpace, Suggest
from mloptimizer.study.study import Study, open_study
from mloptimizer.study.suggestions import Suggestion

Sample = Callable[[Suggest, DatasetInfo], dict[str, Scalar]]
DATASET = DatasetInfo("digits", "classification", (8, 8, 1), 2, ("0", "1"), 8, 2, 2, (0.0,), (1.0,), "f", "", 0, 0.2, 0)


def space(sample: Sample, name: str = "own") -> SearchSpace:
    return SearchSpace(name, "", "", sample, lambda params, dataset: None)


def sample_width(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    return {
        "width": trial.suggest_int("width", 1, 64),
        "rate": rate,
        "act": trial.suggest_categorical("act", ["a", "b"]),
    }


def sample_few(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    return {"width": trial.suggest_int("width", 1, 3)}


WIDE, FEW = [space(sample_width)], [space(sample_few)]


def open_(
    journal: Path, url: str = "", seed: int = 1, metric: str = "val_accuracy", name: str = "s", **values: str | int
) -> Study:
    return open_study(url, journal, name, Settings(objective=metric, **values), seed, Objective(metric))  # type: ignore[arg-type]


def ask(study: Study, spaces: list[SearchSpace]) -> Suggestion:
    suggestion = study.ask(spaces, DATASET)
    assert suggestion is not None
    return suggestion


def complete(study: Study, suggestion: Suggestion, value: float, phase: Phase = Phase.EXPLORATION) -> None:
    study.finish(TrialResult(suggestion.number, Outcome.COMPLETED, value, 1.0, {"val_accuracy": value}), phase)


def key(params: Params) -> tuple[tuple[str, Scalar], ...]:
    return tuple(sorted(params.items()))


def explore_and_enter(study: Study) -> Suggestion:
    for _ in range(8):
        suggestion = ask(study, WIDE)
        study.report(suggestion.number, 2, 0.9)
        complete(study, suggestion, 0.5)
    study.start_hall_of_fame(suggestion.number)
    return suggestion


def outcomes(study: Study, phase: Phase = Phase.EXPLORATION) -> list[Outcome]:
    """Return how the trials ended that count as done; reused results with the outcome of their original."""
    return [trial.outcome for trial in study.trials(phase) if trial.outcome is not None]


def counts(study: Study, phase: Phase = Phase.EXPLORATION) -> Counter[str]:
    """Return how many trials there are of each status, those that are reused by themselves, and of all done."""
    kinds = Counter("reused" if trial.reused_from is not None else str(trial.status) for trial in study.trials(phase))
    kinds["done"] = sum(kinds[kind] for kind in ("completed", "pruned", "failed", "reused"))
    return kinds
