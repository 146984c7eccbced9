"""A study learns from an earlier one, and tries what a person knows first."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import DatasetInfo, Outcome, Params, Phase, Scalar, TrialResult
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, Suggest, read_spaces, sample_params
from mloptimizer.study.answers import Answers, complete_configuration
from mloptimizer.study.earlier import EarlierStudy, read_earlier_study
from mloptimizer.study.storage import open_storage
from mloptimizer.study.study import Study
from mloptimizer.study.trials import TrialStatus
from mloptimizer.study.warm_start import WarmStart
from tests.study.small_studies import DATASET, FEW, WIDE, ask, counts, open_, outcomes, sample_width, space
from tests.study.small_studies import complete as finish

BUILTIN = read_spaces([], Path("missing"))


def learn(study: Study, spaces: list[SearchSpace], values: int = 4, dataset: DatasetInfo = DATASET) -> None:
    """Complete `values` trials, each better than the one before, and let one more be pruned."""
    for number in range(values + 1):
        suggestion = study.ask(spaces, dataset)
        assert suggestion
        study.report(suggestion.number, 1, 0.1 * number)
        if number < values:
            finish(study, suggestion, 0.1 * number)
        else:
            study.finish(TrialResult(suggestion.number, Outcome.PRUNED, None, 1.0))


def earlier_study(journal: Path, name: str = "old", url: str = "") -> EarlierStudy:
    return read_earlier_study(url, journal, name)


def start_warm(
    journal: Path, spaces: list[SearchSpace], best: int = 2, dataset: DatasetInfo = DATASET, url: str = "", **open: Any
) -> tuple[Study, WarmStart]:
    study = open_(journal, url, seed=2, name="new", **open)
    return study, study.warm_start(earlier_study(journal, url=url), spaces, dataset, best)


@pytest.fixture
def old(journal: Path) -> Study:
    """A study with four completed trials, of values 0 to 0.3, and a pruned one."""
    study = open_(journal, name="old")
    learn(study, WIDE)
    return study


@pytest.mark.parametrize("storage", ["", "sqlite:///{}/studies.db"])
def test_the_trials_of_an_earlier_study_are_imported_and_the_best_are_tried_first(journal: Path, storage: str) -> None:
    journal.parent.mkdir()
    url = storage.format(journal.parent)
    old = open_(journal, url, name="old")
    learn(old, WIDE)
    study, brought = start_warm(journal, WIDE, url=url)
    assert brought == WarmStart(imported=5, enqueued=2, unfit=0)
    best = [trial.params for trial in old.best(2)]
    assert [ask(study, WIDE).params for _ in range(2)] == best
    stored = optuna.load_study(study_name="new", storage=open_storage(url, journal)).trials[:5]
    before = optuna.load_study(study_name="old", storage=open_storage(url, journal)).trials
    for taught, trial in zip(stored, before, strict=True):
        assert (taught.state, taught.value, taught.params) == (trial.state, trial.value, trial.params)
        assert taught.intermediate_values == trial.intermediate_values
        assert taught.user_attrs["taught_by"] == f"old, trial {trial.number}"


def test_imported_trials_do_not_count_and_numbers_continue_after_them(journal: Path, old: Study) -> None:
    study, _ = start_warm(journal, WIDE)
    assert {trial.status for trial in study.trials()[:5]} == {TrialStatus.IMPORTED}
    assert (counts(study)["done"], outcomes(study), study.best(9), study.unfinished()) == (0, [], [], [])
    suggestion = ask(study, WIDE)
    assert suggestion.number == 5
    finish(study, suggestion, 0.2)
    assert [trial.number for trial in study.best(9)] == [5]
    study.start_hall_of_fame(5)
    finish(study, suggestion, 0.4, Phase.HALL_OF_FAME)
    assert study.trials(Phase.HALL_OF_FAME)[0].params == suggestion.params


def test_an_exhausted_space_reuses_trained_trials_not_imported_ones(journal: Path) -> None:
    learn(open_(journal, name="old"), FEW, values=2)
    study, _ = start_warm(journal, FEW, best=0)
    for value in (0.5, 0.6, 0.7):
        finish(study, ask(study, FEW), value)
    again = ask(study, FEW)
    assert again.reused_from is not None and again.reused_from >= 3
    assert again.reused == next(trial.value for trial in study.trials() if trial.number == again.reused_from)


def test_a_continued_study_knows_its_imported_trials(journal: Path, old: Study) -> None:
    start_warm(journal, WIDE)
    study = open_(journal, name="new", seed=2)
    assert counts(study)["done"] == 0
    assert ask(study, WIDE).params == old.best(1)[0].params


def test_the_same_study_twice_brings_only_what_is_new(journal: Path, old: Study) -> None:
    study, _ = start_warm(journal, WIDE)
    ask(study, WIDE)  # the best runs, the second waits
    assert study.warm_start(earlier_study(journal), WIDE, DATASET, 2) == WarmStart(0, 0, 0)
    suggestion = ask(old, WIDE)
    finish(old, suggestion, 0.9)
    study = open_(journal, name="new", seed=2)
    assert study.warm_start(earlier_study(journal), WIDE, DATASET, 2) == WarmStart(1, 1, 0)


def test_an_interrupted_warm_start_continues(journal: Path, old: Study) -> None:
    earlier = earlier_study(journal)
    study = open_(journal, name="new")
    study.warm_start(dataclasses.replace(earlier, trials=earlier.trials[:2]), WIDE, DATASET, 0)
    assert study.warm_start(earlier, WIDE, DATASET, 0).imported == 3


def test_a_third_study_imports_imported_trials_once(journal: Path, old: Study) -> None:
    start_warm(journal, WIDE)
    third = open_(journal, name="third")
    assert third.warm_start(earlier_study(journal, "new"), WIDE, DATASET, 1) == WarmStart(5, 1, 0)
    assert third.warm_start(earlier_study(journal), WIDE, DATASET, 1) == WarmStart(0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "words"), [({"fingerprint": "g"}, "other images"), ({"train_size": 7}, "another number of images")]
)
def test_values_of_other_data_are_not_learned_but_its_best_are_tried(
    journal: Path, old: Study, changes: Mapping[str, Any], words: str
) -> None:
    dataset = dataclasses.replace(DATASET, **changes)
    study, brought = start_warm(journal, WIDE, dataset=dataset)
    assert brought == WarmStart(0, 2, 0, (words,))
    suggestion = study.ask(WIDE, dataset)
    assert suggestion and (suggestion.number, suggestion.params) == (0, old.best(1)[0].params)


def test_values_of_another_objective_or_length_are_not_learned(journal: Path, old: Study) -> None:
    _, brought = start_warm(journal, WIDE, metric="val_loss", exploration_epochs=3)
    assert brought == WarmStart(0, 2, 0, ("another objective", "other exploration_epochs"))


def test_the_trials_of_a_study_with_different_lengths_are_not_imported(journal: Path, old: Study) -> None:
    for _ in range(2):
        open_(journal, name="old", exploration_epochs=3)
    assert start_warm(journal, WIDE)[1].different == ("other exploration_epochs",)


def test_only_what_an_edited_space_could_propose_is_taken_over(journal: Path) -> None:
    old = open_(journal, name="old")
    learn(old, WIDE, values=11)
    trials = [trial for trial in old.trials() if trial.status in (TrialStatus.COMPLETED, TrialStatus.PRUNED)]
    fit = [trial for trial in trials if trial.params["width"] <= 32 and trial.params["act"] == "a"]
    assert 0 < len(fit) < len(trials)

    def narrower(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
        rate, width = trial.suggest_float("rate", 1e-4, 1e-1, log=True), trial.suggest_int("width", 1, 32)
        return {"width": width, "rate": rate, "act": trial.suggest_categorical("act", ["a", "c"])}

    study, brought = start_warm(journal, [space(narrower)], best=1)
    assert (brought.imported, brought.unfit) == (len(fit), len(trials) - len(fit))
    first = study.ask([space(narrower)], DATASET)
    best = next(trial for trial in old.best(99) if trial.params in [t.params for t in fit])
    assert first and first.params == best.params


def sample_more(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    return {**sample_width(trial, dataset), "depth": trial.suggest_int("depth", 1, 3)}


def sample_a_constant(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    return {**sample_width(trial, dataset), "depth": 3}


def sample_fewer(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    params = sample_width(trial, dataset)
    return {"width": params["width"], "rate": params["rate"]}


def sample_without_asking(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    return {"width": trial.suggest_int("width", 1, 64), "rate": 0.01, "act": "a"}


@pytest.mark.parametrize("sample", [sample_more, sample_a_constant, sample_fewer, sample_without_asking])
def test_nothing_is_taken_over_where_the_space_makes_other_configurations_now(
    journal: Path, old: Study, sample: Any
) -> None:
    study, brought = start_warm(journal, [space(sample)])
    assert brought == WarmStart(0, 0, 5)
    assert study.trials() == []


def test_trials_of_a_space_that_is_not_searched_do_not_fit(journal: Path, old: Study) -> None:
    assert start_warm(journal, [space(sample_width, "other")])[1] == WarmStart(0, 0, 5)


def sample_dependent(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return {"kind": kind, "size": trial.suggest_categorical("size", [1, 2, 3] if kind == "a" else [4, 5, 6])}


def test_choices_that_depend_on_others_are_taken_over_under_names_that_do_not_clash(journal: Path) -> None:
    spaces = [space(sample_dependent)]
    old = open_(journal, name="old")
    learn(old, spaces, values=5)
    study, brought = start_warm(journal, spaces, best=5)
    assert (brought.imported, brought.enqueued, brought.unfit) == (6, 5, 0)
    tried = [ask(study, spaces).params for _ in range(5)]
    assert tried == [trial.params for trial in old.best(5)]


def test_configurations_of_the_built_in_spaces_are_taken_over(journal: Path) -> None:
    dataset = dataclasses.replace(DATASET, input_shape=(32, 32, 3))
    old = open_(journal, name="old")
    learn(old, BUILTIN, 12, dataset)
    study, brought = start_warm(journal, BUILTIN, 3, dataset)
    assert brought == WarmStart(13, 3, 0)
    for trial in old.best(3):
        suggestion = study.ask(BUILTIN, dataset)
        assert suggestion and (suggestion.space, suggestion.params) == (trial.space, trial.params)


# Which study


def test_an_unknown_earlier_study_is_one_line_that_names_the_known_ones(journal: Path, old: Study) -> None:
    old.start_hall_of_fame(0)
    for name in ("odl", "old-hall-of-fame"):
        with pytest.raises(UsageError, match=rf"'{name}'.* old\.$"):
            earlier_study(journal, name)


def test_a_study_of_another_program_is_refused(journal: Path) -> None:
    optuna.create_study(storage=open_storage("", journal), study_name="old")
    with pytest.raises(UsageError, match="--warm-start: .*'old'"):
        earlier_study(journal)


def test_a_storage_without_studies_stays_uncreated(journal: Path) -> None:
    with pytest.raises(UsageError, match="--warm-start: .*'old'"):
        earlier_study(journal)
    assert not journal.parent.exists()


# What a person knows


def enqueue(study: Study, *configurations: Params, spaces: list[SearchSpace] = WIDE) -> int:
    return study.enqueue([complete_configuration(known, spaces, DATASET) for known in configurations], spaces, DATASET)


def test_given_configurations_are_tried_first_in_their_order(study: Study) -> None:
    known = [{"width": width, "rate": 0.01, "act": "b"} for width in (3, 64, 1)]
    assert enqueue(study, *({"space": "own", **params} for params in known)) == 3
    assert [ask(study, WIDE).params for _ in range(3)] == known


def test_what_a_configuration_leaves_open_is_drawn(study: Study) -> None:
    enqueue(study, {"space": "own", "width": 7})
    params = ask(study, WIDE).params
    assert params["width"] == 7 and 1e-4 <= params["rate"] <= 1e-1 and params["act"] in ("a", "b")


def test_a_configuration_is_enqueued_once_and_one_that_was_tried_not_at_all(journal: Path) -> None:
    study, known = open_(journal), {"space": "own", "width": 7, "rate": 0.01, "act": "a"}
    assert (enqueue(study, known, known), enqueue(study, known)) == (1, 0)
    study = open_(journal)
    assert enqueue(study, known) == 0
    finish(study, ask(study, WIDE), 0.5)
    assert enqueue(open_(journal), known) == 0
    assert len(open_(journal).trials()) == 1


def test_a_continued_study_tries_given_configurations_next(journal: Path) -> None:
    learn(open_(journal), WIDE)
    study = open_(journal)
    enqueue(study, {"space": "own", "width": 7, "rate": 0.01, "act": "a"})
    assert ask(study, WIDE).params == {"width": 7, "rate": 0.01, "act": "a"}


@pytest.mark.parametrize("seed", range(12))
def test_every_configuration_of_the_built_in_spaces_round_trips(seed: int) -> None:
    dataset = dataclasses.replace(DATASET, input_shape=(32, 32, 3))
    for known in BUILTIN:
        trial = RandomSuggest(seed)
        params = sample_params(known, trial, dataset)
        answers = complete_configuration({"space": known.name, **params}, BUILTIN, dataset)
        assert answers == Answers(known.name, trial.params)


def test_a_value_counts_under_the_name_that_is_returned_and_under_the_one_that_is_asked() -> None:
    for name in ("learning_rate", "adamw_learning_rate"):
        answers = complete_configuration({"space": "cnn", "optimizer": "adamw", name: 0.001}, BUILTIN, DATASET)
        assert answers.values["adamw_learning_rate"] == 0.001


def test_a_value_decides_what_was_left_open() -> None:
    answers = complete_configuration({"space": "cnn", "learning_rate": 0.25, "groups": 8}, BUILTIN, DATASET)
    assert answers.values["sgd_learning_rate"] == 0.25
    assert (answers.values["optimizer"], answers.values["normalization"]) == ("sgd", "group")


def sample_computed(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    return {"width": 8 * trial.suggest_int("eights", 1, 4), "flag": trial.suggest_categorical("flag", [True, False])}


def sample_swallowed(trial: Suggest, dataset: DatasetInfo) -> dict[str, Scalar]:
    try:
        return {"width": trial.suggest_int("width", 1, 2)}
    except UsageError:
        return {"width": 3}


@pytest.mark.parametrize(
    ("sample", "known", "says"),
    [
        (sample_width, {"widht": 3}, r"does not ask for 'widht' here\. It asks for: act, rate, width\.$"),
        (sample_width, {"width": 65}, r"width = 65 is not possible\. Possible: an integer from 1 to 64\.$"),
        (sample_width, {"width": 10**400}, r"width = 10{40,60}… "),
        (sample_width, {"width": 3.0}, r"width = 3\.0 "),
        (sample_width, {"width": True}, r"width = True "),
        (sample_width, {"width": "3"}, r"width = '3' "),
        (sample_width, {"rate": math.nan}, r"rate = nan .* 0\.0001 to 0\.1\.$"),
        (sample_width, {"rate": math.inf}, r"rate = inf "),
        (sample_width, {"rate": 10**400}, r"rate = 10{40,60}… "),
        (sample_width, {"rate": False}, r"rate = False "),
        (sample_width, {"act": "c"}, r"act = 'c' .* a, b\.$"),
        (sample_width, {"act": 1}, r"act = 1 "),
        (sample_computed, {"width": 17}, r"width = 17 .* eights, flag\.$"),
        (sample_computed, {"flag": 1}, r"flag = 1 "),
        (sample_swallowed, {"width": 3}, r"width = 3 "),
    ],
)
def test_a_configuration_that_no_space_could_propose_is_one_line(sample: Any, known: Params, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        complete_configuration({"space": "own", **known}, [space(sample)], DATASET)
    assert "\n" not in str(caught.value)


def test_a_configuration_of_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'resnt'.*'resnet'"):
        complete_configuration({"space": "resnt"}, BUILTIN, DATASET)


@pytest.mark.parametrize("known", [{"width": 16, "flag": False}, {"eights": 2, "flag": False}])
def test_a_value_that_the_space_computes_counts_by_either_name(known: Params) -> None:
    answers = complete_configuration({"space": "own", **known}, [space(sample_computed)], DATASET)
    assert answers.values == {"eights": 2, "flag": False}


@pytest.mark.parametrize(
    ("brought", "says"),
    [
        (WarmStart(40, 6, 0), "the sampler learns from 40 trials; its best 6 are tried first"),
        (WarmStart(1, 1, 2), "the sampler learns from 1 trial; its best is tried first; the search spaces could not "),
        (WarmStart(0, 0, 0), "this study already has all of it"),
        (WarmStart(0, 2, 0, ("other images",)), "its best 2 are tried first; its values cannot be compared (other i"),
    ],
)
def test_a_warm_start_tells_what_it_brought(brought: WarmStart, says: str) -> None:
    assert brought.describe().startswith(says)
