"""What an export leaves in its folder: all of its files or none, and never those of another model in silence."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.app import exporting
from mloptimizer.app.exporting import FILES, launch_export
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import DatasetInfo, Outcome, Phase, TrialPlan, TrialResult
from mloptimizer.core.trial_files import WEIGHTS
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace

SPACE = "def sample(trial, dataset):\n    return {}\n\ndef build(params, dataset):\n    return None\n"


@pytest.fixture
def study(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Workspace:
    """Returns a workspace with two completed trials of the study s, whose weights are kept."""
    store = MetricsStore(workspace, "s")
    store.write_study({"study": "s", "seed": 5, "spaces": ["own"], "settings": {}}, {"own": SPACE})
    for number in (0, 1):
        folder = workspace.trial("s", number, Phase.EXPLORATION)
        settings = Settings()
        place, dataset = str(folder), make_dataset(name="digits")
        phase, params = Phase.EXPLORATION, {"width": 8 + number}
        store.start(TrialPlan("s", number, phase, "own", SPACE, params, dataset, 1, 1, 1, place, settings=settings))
        (folder / WEIGHTS).touch()
        value = 0.5 + number / 4
        store.finish(phase, TrialResult(number, Outcome.COMPLETED, value, 1.0, {"val_accuracy": value}))
    return workspace


@pytest.fixture(autouse=True)
def _without_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a text instead of a model."""

    def export(_: object, plan: Mapping[str, Any], source: str, weights: str, target: str) -> Mapping[str, Any]:
        Path(target).write_text(f"model {plan['number']}")
        return {"labels": ["a", "b"]}

    monkeypatch.setattr(exporting, "_in_own_process", export)


def numbers_in(folder: Path) -> tuple[str, int]:
    """Return which trial's model lies there, and which one the facts are of."""
    return (folder / "model.keras").read_text(), json.loads((folder / "metrics.json").read_text())["trial"]


def test_the_facts_lie_beside_the_model(study: Workspace, tmp_path: Path) -> None:
    about = launch_export(study, "s", tmp_path / "a" / "out", None)
    assert sorted(path.name for path in (tmp_path / "a" / "out").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "a" / "out" / "metrics.json").read_text()) == about
    assert (about["trial"], about["objective"], about["value"]) == (1, "val_accuracy", 0.75)
    assert about["export"]["labels"] == ["a", "b"]


def test_another_model_is_overwritten_only_by_force(study: Workspace, tmp_path: Path) -> None:
    launch_export(study, "s", tmp_path, 0)
    launch_export(study, "s", tmp_path, 0)  # the same one again
    with pytest.raises(UsageError, match="trial 0 of study 's'.*--force"):
        launch_export(study, "s", tmp_path, 1)
    assert numbers_in(tmp_path) == ("model 0", 0)
    launch_export(study, "s", tmp_path, 1, force=True)
    assert numbers_in(tmp_path) == ("model 1", 1)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_unknown_origin_is_not_overwritten(study: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        launch_export(study, "s", tmp_path, 0)
    assert (tmp_path / name).read_text() == "mine"
    launch_export(study, "s", tmp_path, 0, force=True)
    assert numbers_in(tmp_path) == ("model 0", 0)
    assert (tmp_path / "other.txt").read_text() == "mine"


def test_an_export_that_fails_leaves_nothing(study: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        Path(arguments[-1]).write_text("half a mod")
        raise RunError("export: too bad")

    launch_export(study, "s", tmp_path / "old", 0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(exporting, "_in_own_process", fail)
    for target in ("old", "new"):
        with pytest.raises(RunError, match="too bad"):
            launch_export(study, "s", tmp_path / target, 0)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_folder_is_told(study: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    for target in ("out", "out/more"):
        with pytest.raises(UsageError, match="out"):
            launch_export(study, "s", tmp_path / target, 0)
