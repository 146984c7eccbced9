"""A whole search of a study that has learned from an earlier one."""

from collections.abc import Callable

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import DatasetInfo, Objective, Outcome, Phase
from mloptimizer.reports.model.standings import read_study_record
from mloptimizer.spaces.space_files import load_space
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.answers import complete_configuration
from mloptimizer.study.study import Study, open_study
from mloptimizer.study.trials import TrialStatus
from tests.small_searches import LINE, run_small_search
from tests.study.small_studies import complete as finish

SPACES = [load_space("line", LINE, "line.py")]
VALUES = (0.25, 0.75, 0.9, 0.5, 0.8)


def open_line(workspace: Workspace, name: str) -> Study:
    settings = Settings(exploration_epochs=3)
    return open_study("", workspace.journal, name, settings, 1, Objective(settings.objective))


def test_trials_that_teach_are_no_trials_of_the_search(
    workspace: Workspace, make_dataset: Callable[..., DatasetInfo]
) -> None:
    dataset, old = make_dataset(), open_line(workspace, "old")
    old.enqueue([complete_configuration({"space": "line", "x": x}, SPACES, dataset) for x in VALUES], SPACES, dataset)
    for x in VALUES:
        suggestion = old.ask(SPACES, dataset)
        assert suggestion and suggestion.params == {"x": x}
        finish(old, suggestion, 10 * x)  # more than any trial of the search can reach

    summary, watcher = run_small_search(workspace, dataset, warm_start="old", hall_of_fame_size=2)
    assert f"the sampler learns from {len(VALUES)} trials" in watcher.notices[0]
    explored = [result.number for phase, result in watcher.ended if phase is Phase.EXPLORATION]
    assert explored == list(range(5, 11))
    assert [plan.params["x"] for plan in watcher.started[:2]] == [0.9, 0.8]
    assert (watcher.shown[0].total, watcher.shown[0].done) == (6, 0)
    assert summary.exploration[Outcome.COMPLETED] == 6
    assert summary.winner is not None and summary.winner >= 5
    assert read_study_record(workspace, "s").winner == (summary.winner, Phase.HALL_OF_FAME)
    assert {record.plan["number"] for record in MetricsStore(workspace, "s").trials(Phase.HALL_OF_FAME)} <= set(
        explored
    )

    summary, watcher = run_small_search(workspace, dataset, trials=8)
    assert [result.number for phase, result in watcher.ended if phase is Phase.EXPLORATION] == [11, 12]
    statuses = [trial.status for trial in open_line(workspace, "s").trials()]
    assert statuses == [TrialStatus.IMPORTED] * 5 + [TrialStatus.COMPLETED] * 8
