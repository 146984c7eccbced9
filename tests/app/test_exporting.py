"""What an export leaves in its folder: all of its files or none, and never those of another model in silence."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.app import exporting
from mloptimizer.app.exporting import FILES, launch_export
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import DatasetInfo, Outcome, Phase, TrialPlan, TrialResult
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace

SPACE = "def sample(trial, dataset):\n    return {}\n\ndef build(params, dataset):\n    return None\n"


@pytest.fixture
def study(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> MetricsStore:
    """Returns the records of two completed trials of the study s, with weights."""
    store, dataset = MetricsStore(workspace, "s"), make_dataset(name="digits")
    store.write_study({"study": "s", "seed": 5, "spaces": ["own"], "settings": {}}, {"own": SPACE})
    for number in (0, 1):
        plan = TrialPlan(
            study="s", number=number, phase=Phase.EXPLORATION, space="own", space_source=SPACE, params={"width": 8},
            dataset=dataset, epochs=1, patience=1, seed=1, directory=str(store.trial_folder(number)),
        )  # fmt: skip
        store.start(plan)
        record = store.trial(number)
        assert record is not None
        (record.directory / "model.weights.h5").touch()
        result = TrialResult(number, Outcome.COMPLETED, 0.5, 1.0, {"val_accuracy": 0.5 + number / 10})
        store.finish(Phase.EXPLORATION, result)
    return store


@pytest.fixture(autouse=True)
def _without_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a text instead of a model."""

    def export(_: object, plan: Mapping[str, Any], source: str, weights: str, target: str) -> Mapping[str, Any]:
        Path(target).write_text(f"model {plan['number']}")
        return {"labels": ["a", "b"]}

    monkeypatch.setattr(exporting, "_in_own_process", export)
