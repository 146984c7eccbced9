"""A study proposes each configuration once, whatever its search spaces do."""

import math
import random
import sys
from pathlib import Path

import optuna
import pytest

from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Params, Scalar, TrialResult, failed
from mloptimizer.spaces.space_files import Suggest
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study
from mloptimizer.study.suggestions import Suggestion
from mloptimizer.study.trials import TrialStatus
from tests.study.small_studies import (
    DATASET,
    FEW,
    WIDE,
    Sample,
    ask,
    complete,
    counts,
    key,
    open_,
    outcomes,
    sample_few,
    sample_width,
    space,
)


def test_a_configuration_is_what_the_space_returned(study: Study) -> None:
    suggestion = ask(study, [space(lambda trial, _: {"double": 2 * trial.suggest_int("half", 3, 3)})])
    assert suggestion == Suggestion(0, "own", {"double": 6})


def test_families_keep_their_parameters_apart(study: Study, journal: Path) -> None:
    spaces = [space(sample_width, "one"), space(lambda t, _: {"act": t.suggest_categorical("act", [1, 2])}, "two")]
    asked = {ask(study, spaces).space for _ in range(12)}
    assert asked == {"one", "two"}
    stored = optuna.load_study(study_name="s", storage=open_storage("", journal)).trials
    names = {name for trial in stored for name in trial.params}
    assert names == {"space", "one.rate", "one.width", "one.act", "two.act"}


def test_no_configuration_is_proposed_twice_while_there_are_new_ones(study: Study) -> None:
    grid = [space(lambda t, _: {name: t.suggest_int(name, 1, 4) for name in ("a", "b")})]
    asked = []
    for _ in range(16):
        suggestion = ask(study, grid)
        assert suggestion.reused is None
        asked.append(key(suggestion.params))
        complete(study, suggestion, 1.0)
    assert len(set(asked)) == 16
    assert counts(study)["done"] == counts(study)["completed"] == 16


def test_equal_floats_that_were_computed_apart_are_one_configuration(study: Study) -> None:
    values = iter([0.3, 0.1 * 3, 0.3, 0.3, 0.3, *[0.5] * 2000])
    suggestions = [ask(study, [space(lambda t, _: {"x": next(values)})]) for _ in range(2)]
    assert [suggestion.params for suggestion in suggestions] == [{"x": 0.3}, {"x": 0.5}]


def test_an_exhausted_space_reuses_results_and_trains_nothing(study: Study) -> None:
    values = {}
    for _ in range(3):
        suggestion = ask(study, FEW)
        values[key(suggestion.params)] = float(suggestion.number)
        complete(study, suggestion, float(suggestion.number))
    reused = [ask(study, FEW) for _ in range(4)]
    assert [s.reused for s in reused] == [values[key(s.params)] for s in reused]
    found = counts(study)
    assert (found["done"], found["completed"], found["reused"], found["running"]) == (7, 3, 4, 0)
    assert len(study.best(10)) == 3
    assert outcomes(study) == [Outcome.COMPLETED] * 7


def test_an_exhausted_space_waits_while_its_trials_run_and_burns_no_numbers(study: Study) -> None:
    running = [ask(study, FEW) for _ in range(3)]
    assert study.ask(FEW, DATASET) is None
    before = len(study.trials())
    assert study.ask(FEW, DATASET) is None
    assert len(study.trials()) == before
    for suggestion in running:
        complete(study, suggestion, 0.5)
    assert ask(study, FEW).reused == 0.5


def test_a_failed_configuration_counts_as_tried_and_fails_again(study: Study) -> None:
    only = [space(lambda t, _: {"x": t.suggest_int("x", 1, 1)})]
    study.finish(failed(ask(study, only).number, FailureKind.OUT_OF_MEMORY, "too large"))
    again = ask(study, only)
    assert (again.reused, again.reused_from) == (None, 0)
    assert again.failure and (again.failure.kind, again.failure.message) == (FailureKind.OUT_OF_MEMORY, "too large")
    assert counts(study)["reused"] == 1 and outcomes(study) == [Outcome.FAILED] * 2


def test_a_pruned_configuration_is_reused_as_pruned(study: Study) -> None:
    only = [space(lambda t, _: {"x": t.suggest_int("x", 1, 1)})]
    number = ask(study, only).number
    study.report(number, 1, 0.25)
    study.finish(TrialResult(number, Outcome.PRUNED, None, 1.0))
    assert ask(study, only).reused == 0.25
    assert outcomes(study) == [Outcome.PRUNED] * 2


def test_duplicates_are_marked_and_do_not_count(study: Study) -> None:
    values = iter([7, 7, 7, 8])
    changing = [space(lambda t, _: {"x": next(values)})]
    asked = [ask(study, changing) for _ in range(2)]
    assert [(suggestion.number, suggestion.params["x"]) for suggestion in asked] == [(0, 7), (3, 8)]
    duplicates = study.trials()[1:3]
    assert [(t.status, t.duplicate_of, t.outcome) for t in duplicates] == [(TrialStatus.DUPLICATE, 0, None)] * 2
    for suggestion in asked:
        complete(study, suggestion, 0.5)
    assert counts(study)["done"] == 2


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda t, d: {"x": 1 / 0}, "ZeroDivisionError: division by zero"),
        (lambda t, d: t.suggest_int("x", 5, 1), "ValueError"),
        (lambda t, d: [1], "a list"),
        (lambda t, d: {"x": math.nan}, "sample returned 'x': nan"),
        (lambda t, d: {"x": (1, 2)}, "sample returned 'x': (1, 2)"),
        (lambda t, d: t.set_user_attr("a", 1), "AttributeError"),
        (lambda t, d: sys.exit(3), "SystemExit: 3"),
    ],
)
def test_a_space_that_cannot_be_sampled_is_a_failed_trial(study: Study, sample: Sample, message: str) -> None:
    suggestion = ask(study, [space(sample)])
    assert suggestion.failure and suggestion.failure.kind is FailureKind.SPACE_ERROR
    assert message in suggestion.failure.message and "\n" not in suggestion.failure.message
    assert outcomes(study) == [Outcome.FAILED]
    complete(study, ask(study, WIDE), 0.5)  # the search goes on


def test_a_failing_sample_has_its_traceback_kept(study: Study) -> None:
    def wrong(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
        return {"x": [][trial.suggest_int("x", 0, 1)]}

    failure = ask(study, [space(wrong)]).failure
    assert failure and 'return {"x": [][trial' in failure.traceback
    assert study.trials()[0].failure == failure


def test_choices_that_depend_on_other_values_work(study: Study) -> None:
    def depend(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
        depth = trial.suggest_int("depth", 1, 4)
        return {"depth": depth, "width": trial.suggest_categorical("width", list(range(8, 8 + 4 * depth)))}

    for _ in range(10):
        suggestion = ask(study, [space(depend)])
        assert suggestion.failure is None
        complete(study, suggestion, 0.5)


def test_a_study_continues_with_edited_and_other_spaces(journal: Path) -> None:
    first = open_(journal)
    for _ in range(5):
        complete(first, ask(first, [*WIDE, space(sample_few, "few")]), 0.5)
    edited = space(
        lambda t, _: {
            "rate": t.suggest_float("rate", 0, 1),
            "act": t.suggest_categorical("act", ["c"]),
            "width": t.suggest_float("width", 0, 1),
        }
    )
    second = open_(journal)
    assert {ask(second, [edited]).failure for _ in range(3)} == {None}
    assert ask(open_(journal), [*WIDE, space(sample_few, "few")]).failure is None


def test_the_seed_repeats_a_study(tmp_path: Path) -> None:
    def explore(journal: Path, seed: int) -> list[Params]:
        study, values, asked = open_(journal, seed=seed), random.Random(0), []
        for _ in range(14):
            asked.append(suggestion := ask(study, WIDE))
            complete(study, suggestion, values.random())
        return [suggestion.params for suggestion in asked]

    first = explore(tmp_path / "a", 5)
    assert first == explore(tmp_path / "b", 5) != explore(tmp_path / "c", 6)
