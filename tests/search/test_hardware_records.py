"""What the hardware did reaches the records of every trial, however it ended, and Optuna; training is a stand-in."""

import functools
import json
from collections.abc import Callable

import optuna
import pytest

from mloptimizer.app.requirements import check_machine
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import Emit, HardwareSample, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.store import recorder
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.storage import open_storage
from tests.small_searches import Search, run_small_search, train


@pytest.fixture
def search(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Search:
    return functools.partial(run_small_search, workspace, make_dataset(), trials=4)


def train_with_rows(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    """Write a log of 10 s on 2 cores; trial 1 fails at its first attempts, trial 2 for good."""
    for second in range(11):
        cells = {"process_cpu_percent": 200.0, "process_rss_mb": 300.0, "setup_s": 2.0, "training_s": 1.0}
        emit(HardwareSample(plan.number, {"time_utc": "t", "seconds": float(second), "part": "training", **cells}))
    if plan.number == 1 and plan.attempt == 1:
        return failed(plan.number, FailureKind.CRASH, "killed")
    if plan.number == 2:
        return failed(plan.number, FailureKind.ERROR, "broken")
    return train(plan, slot, lambda event: None, should_stop)


def recorded(workspace: Workspace, number: int, phase: Phase = Phase.EXPLORATION) -> dict[str, object]:
    result = json.loads((workspace.trial("s", number, phase) / "result.json").read_text())
    assert isinstance(result["hardware"], dict)
    return result["hardware"]


def test_every_trials_record_sums_up_its_log_over_all_attempts(search: Search, workspace: Workspace) -> None:
    _, watcher = search(train_with_rows)
    ended = {result.number: result.outcome for phase, result in watcher.ended if phase is Phase.EXPLORATION}
    assert ended[2] is Outcome.FAILED
    for number, attempts in ((0, 1), (1, 2), (2, 1)):
        hardware = recorded(workspace, number)
        assert (hardware["process_cores"], hardware["ram_peak_mb"]) == (2.0, 300.0)
        assert (hardware["attempts"], hardware["duration_s"], hardware["setup_s"]) == (
            attempts,
            10 * attempts,
            2 * attempts,
        )
    trained_on = [result.number for phase, result in watcher.ended if phase is Phase.HALL_OF_FAME]
    assert recorded(workspace, trained_on[0], Phase.HALL_OF_FAME)["process_cores"] == 2.0


def test_optuna_has_the_figures_that_are_known_as_attributes(search: Search, workspace: Workspace) -> None:
    search(train_with_rows)
    storage = open_storage("", workspace.journal)
    for name in ("s", "s-hall-of-fame"):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            facts = {key: value for key, value in trial.user_attrs.items() if key.startswith("hardware_")}
            assert facts["hardware_process_cores"] == 2.0
            assert facts["hardware_setup_s"] >= 2.0
            assert all(isinstance(value, (int, float, str)) for value in facts.values())


def test_a_summary_that_cannot_be_made_ends_nothing(
    search: Search, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no seconds")

    monkeypatch.setattr(recorder, "describe_trial", fail)
    summary, _ = search(train_with_rows)
    assert summary.winner is not None
    assert recorded(workspace, 0) == {}
    assert "trial 0 has no summary: no seconds" in caplog.text


def test_a_budget_of_energy_is_refused_where_none_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloptimizer.app.requirements.can_measure_energy", lambda gpus: False)
    with pytest.raises(UsageError, match="max_kwh = 2: this machine reports neither the power of a GPU nor the energy"):
        check_machine(Settings(max_kwh=2), [])
    monkeypatch.setattr("mloptimizer.app.requirements.can_measure_energy", lambda gpus: True)
    check_machine(Settings(max_kwh=2), [])
