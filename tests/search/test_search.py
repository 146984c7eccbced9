"""The loop, the phases and the records with a real study and real files; training is a stand-in of a few lines."""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable

import pytest

from mloptimizer.core.events import Emit, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.core.trial_files import WEIGHTS
from mloptimizer.reports.model.standings import read_study_record
from mloptimizer.search.running_trials import check_result
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace
from tests.small_searches import LINE, Interrupt, Search, run_small_search, train


@pytest.fixture
def search(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Search:
    """Runs a search named "s" of lines, one trial at a time; calling it again continues it."""
    return functools.partial(run_small_search, workspace, make_dataset())


def test_the_best_half_is_trained_on_and_the_best_of_it_wins(search: Search, workspace: Workspace) -> None:
    summary, watcher = search()
    explored = [result for phase, result in watcher.ended if phase is Phase.EXPLORATION]
    best = sorted(explored, key=lambda result: -(result.value or 0))
    trained_on = [result.number for phase, result in watcher.ended if phase is Phase.HALL_OF_FAME]
    assert trained_on == [result.number for result in best[:3]]
    assert (summary.winner, summary.winner_phase) == (best[0].number, Phase.HALL_OF_FAME)
    assert summary.exploration[Outcome.COMPLETED] == 6
    assert summary.hall_of_fame[Outcome.COMPLETED] == 3


def test_of_equal_models_search_and_reports_name_the_same_winner(search: Search, workspace: Workspace) -> None:
    def reach_the_top(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        result = train(plan, slot, emit, should_stop)
        return dataclasses.replace(result, value=0.99) if plan.phase is Phase.HALL_OF_FAME else result

    summary, watcher = search(reach_the_top)
    trained_on = [result.number for phase, result in watcher.ended if phase is Phase.HALL_OF_FAME]
    assert trained_on != sorted(trained_on), "the best of the exploration should not have the lowest number here"
    assert (
        (summary.winner, summary.winner_phase)
        == read_study_record(workspace, "s").winner
        == (min(trained_on), Phase.HALL_OF_FAME)
    )
    assert summary.test_evaluations[0]["trial"] == summary.winner


def test_the_hall_of_fame_is_never_larger_than_stated(search: Search) -> None:
    assert search(hall_of_fame_size=2)[0].hall_of_fame[Outcome.COMPLETED] == 2


def test_long_trainings_start_from_the_exploration_weights(search: Search, workspace: Workspace) -> None:
    summary, _ = search()
    text = (workspace.trial("s", summary.winner or 0, Phase.HALL_OF_FAME) / WEIGHTS).read_text()
    assert text.endswith(f"from {workspace.trial('s', summary.winner or 0) / WEIGHTS}")


def test_a_cold_hall_of_fame_starts_from_new_weights(search: Search, workspace: Workspace) -> None:
    summary, _ = search(warm_start_hall_of_fame=False)
    assert (workspace.trial("s", summary.winner or 0, Phase.HALL_OF_FAME) / WEIGHTS).read_text().endswith("from ")


def test_explore_only_trains_nothing_on_and_leaves_the_test_set_alone(search: Search) -> None:
    summary, watcher = search(explore_only=True)
    assert {phase for phase, _ in watcher.ended} == {Phase.EXPLORATION}
    assert summary.winner_phase is Phase.EXPLORATION
    assert summary.test_evaluations == ()


def test_the_test_set_is_read_once(search: Search) -> None:
    summary, watcher = search()
    assert [phase for phase, _ in watcher.ended].count(Phase.TEST_EVALUATION) == 1
    (reading,) = summary.test_evaluations
    assert reading["trial"] == summary.winner
    assert search()[0].test_evaluations == summary.test_evaluations


def test_a_second_run_of_a_finished_search_trains_nothing(search: Search) -> None:
    search()
    assert search()[1].ended == []


def test_more_trials_continue_the_study_with_new_numbers(search: Search) -> None:
    _, first = search(explore_only=True)
    _, second = search(trials=8, explore_only=True)
    old = {result.number for _, result in first.ended}
    new = {result.number for _, result in second.ended}
    assert len(new) == 2
    assert not old & new


def test_only_the_best_keep_their_weights(search: Search, workspace: Workspace) -> None:
    _, watcher = search(explore_only=True, hall_of_fame_size=2)
    best = sorted((result for _, result in watcher.ended), key=lambda result: -(result.value or 0))[:2]
    kept = {path.parent.name for path in workspace.study("s").glob(f"*/{WEIGHTS}")}
    assert kept == {f"trial_{result.number:05d}" for result in best}


def test_after_the_hall_of_fame_only_its_weights_are_left(search: Search, workspace: Workspace) -> None:
    _, watcher = search()
    trained_on = {result.number for phase, result in watcher.ended if phase is Phase.HALL_OF_FAME}
    kept = {path.parent.name for path in workspace.study("s").glob(f"*/{WEIGHTS}")}
    assert kept == {f"hall_of_fame_{number:05d}" for number in trained_on}


def test_every_event_reaches_its_file(search: Search, workspace: Workspace) -> None:
    search(explore_only=True)
    folder = workspace.trial("s", 0)
    assert json.loads((folder / "plan.json").read_text())["params"].keys() == {"x"}
    assert [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert json.loads((folder / "result.json").read_text())["outcome"] == "completed"
    assert len(workspace.hardware_log("s", 0).read_text().splitlines()) == 2
    assert "trial 0  precision: float32  (no GPU)" in workspace.strategy_log.read_text()


def test_the_same_seed_proposes_the_same_search(search: Search, workspace: Workspace) -> None:
    params = lambda: [r.plan["params"] for r in MetricsStore(workspace, "s").trials()]  # noqa: E731
    search(explore_only=True)
    first = params()
    workspace.journal.unlink()
    search(explore_only=True)
    assert params() == first


def test_a_trial_that_falls_behind_is_pruned_and_keeps_no_weights(search: Search, workspace: Workspace) -> None:
    def wait_when_told(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        result = train(plan, slot, emit, should_stop)
        return result  # done before it can hear that it is pruned: the decision counts all the same

    summary, watcher = search(wait_when_told, explore_only=True, trials=30, pruner="median", pruner_startup_trials=2)
    assert summary.exploration[Outcome.PRUNED] > 0
    pruned = [result for _, result in watcher.ended if result.outcome is Outcome.PRUNED]
    for result in pruned:
        assert not (workspace.trial("s", result.number) / WEIGHTS).exists()


def fail_at_first(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
    if plan.number == 0:
        return failed(0, FailureKind.ERROR, "too large", traceback="the story")
    return train(plan, slot, emit, should_stop)


def test_a_failed_trial_is_recorded_and_the_search_goes_on(search: Search, workspace: Workspace) -> None:
    summary, _ = search(fail_at_first)
    assert summary.exploration == {Outcome.COMPLETED: 5, Outcome.PRUNED: 0, Outcome.FAILED: 1}
    failure = json.loads((workspace.trial("s", 0) / "result.json").read_text())["failure"]
    assert failure == {"kind": "error", "message": "too large", "traceback": "the story"}


def test_a_space_that_cannot_be_sampled_is_a_failed_trial_with_its_story(search: Search, workspace: Workspace) -> None:
    summary, watcher = search(source=LINE.replace("suggest_float", "suggest_flat"), trials=2)
    assert summary.exploration[Outcome.FAILED] == 2
    assert [result.number for _, result in watcher.ended] == [0, 1]
    failure = json.loads((workspace.trial("s", 1) / "result.json").read_text())["failure"]
    assert failure["kind"] == "space_error"
    assert "suggest_flat" in failure["traceback"]


def test_a_small_space_is_searched_once_and_its_results_are_taken_over(search: Search, workspace: Workspace) -> None:
    source = LINE.replace('suggest_float("x", 0.0, 1.0)', 'suggest_categorical("x", [0.25, 0.5, 0.75])')
    trained: list[int] = []

    def count(plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        trained.append(plan.number)
        return train(plan, slot, emit, should_stop)

    summary, watcher = search(count, source=source, explore_only=True)
    assert len(trained) == 3
    assert summary.exploration[Outcome.COMPLETED] == 6
    assert len(MetricsStore(workspace, "s").trials()) == 6
    assert {result.value for _, result in watcher.ended} == {0.875 * x for x in (0.25, 0.5, 0.75)}


def test_when_every_trial_fails_there_is_no_winner(search: Search) -> None:
    def fail(plan: TrialPlan, *_: object) -> TrialResult:
        return failed(plan.number, FailureKind.NON_FINITE, "nan")

    summary, _ = search(fail)
    assert (summary.winner, summary.value) == (None, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_not_finite_is_a_failure(value: float | None) -> None:
    result = check_result(TrialResult(3, Outcome.COMPLETED, value, 1.0), "val_loss", pruned=False)
    assert result.failure is not None
    assert result.failure.kind is FailureKind.NON_FINITE


@pytest.mark.parametrize("use", range(2, 22))
def test_a_search_interrupted_anywhere_loses_nothing_when_continued(search: Search, use: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        search(interruptible=Interrupt(use))
    summary, _ = search()
    assert sum(summary.exploration.values()) == 6
    assert summary.exploration[Outcome.COMPLETED] == 6
    assert summary.hall_of_fame[Outcome.COMPLETED] == 3
    assert len(summary.test_evaluations) == 1


def test_a_trial_that_was_cut_off_goes_on_under_its_number(search: Search, workspace: Workspace) -> None:
    store = MetricsStore(workspace, "s")
    with pytest.raises(KeyboardInterrupt):
        search(interruptible=Interrupt(3))
    (before,) = store.trials()
    assert (before.result, [a.kind for a in store.read_attempts(0, Phase.EXPLORATION)]) == ({}, ["suspended"])
    _, watcher = search(trials=1, explore_only=True)
    assert [(plan.number, plan.attempt, plan.resumes) for plan in watcher.started] == [(0, 2, True)]
    assert watcher.started[0].params == before.plan["params"]


def test_a_result_that_was_recorded_but_not_told_is_told_and_not_trained_again(
    search: Search, workspace: Workspace
) -> None:
    search(trials=2, explore_only=True)
    with workspace.journal.open("r+b") as journal:  # the driver dies before the study knows of trial 1's end
        lines = journal.read().splitlines(keepends=True)
        end = next(i for i, line in enumerate(lines) if b'"outcome"' in line and b'"trial_id":1' in line)
        journal.truncate(sum(map(len, lines[:end])))
    summary, watcher = search(trials=2, explore_only=True)
    assert watcher.started == []
    assert summary.exploration[Outcome.COMPLETED] == 2


def test_progress_estimates_the_time_left(search: Search) -> None:
    _, watcher = search(explore_only=True)
    assert watcher.shown[0].seconds_left is None
    assert watcher.shown[-1].seconds_left == 0
    assert [progress.done for progress in watcher.shown] == sorted(progress.done for progress in watcher.shown)


def test_the_trial_to_profile_is_profiled_in_the_exploration_alone(search: Search) -> None:
    summary, watcher = search(profile_trial=2)
    assert [(plan.number, plan.phase) for plan in watcher.started if plan.profiled] == [(2, Phase.EXPLORATION)]
    assert summary.notes == ()


def test_a_trial_to_profile_that_was_never_reached_is_told(search: Search) -> None:
    search(trials=3, explore_only=True)
    summary, _ = search(trials=4, explore_only=True, profile_trial=1)  # an earlier run trained it
    (note,) = summary.notes
    assert note.startswith("--profile-trial 1: this run trained no such trial")


def test_all_trials_of_a_study_share_one_cache(search: Search, workspace: Workspace) -> None:
    _, watcher = search()
    assert {plan.cache_directory for plan in watcher.started} == {str(workspace.study("s") / "cache")}


def test_what_a_kill_left_unfinished_is_removed_and_nothing_else(search: Search, workspace: Workspace) -> None:
    search(trials=1, explore_only=True)
    folder = workspace.trial("s", 0)
    (folder / ".saving-x.part").mkdir()
    (folder / ".saving-x.part" / "model.weights.h5").write_text("half")
    (workspace.study("s") / ".study.json.x.part").write_text("half")
    (folder / ".mine").write_text("a person's")
    MetricsStore(workspace, "s").remove_leftovers()
    hidden = [path.name for path in workspace.study("s").rglob(".*")]
    assert hidden == [".mine"]
