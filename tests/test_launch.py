import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mloptimizer.datasets.library import prepare_dataset
from mloptimizer.errors import UsageError
from mloptimizer.hardware.nvml import list_gpus
from mloptimizer.launch import launch_init, launch_search
from mloptimizer.measurement import this_machine
from mloptimizer.metrics_store import MetricsStore
from mloptimizer.preparation import PreparedSearch, SearchRequest, prepare_search
from mloptimizer.records import DatasetInfo, to_json
from mloptimizer.setting_values import make_settings
from mloptimizer.settings import Settings
from mloptimizer.tuning_plans import TuningPlan, identify, keep_plan
from mloptimizer.workspace import Workspace
from tests.small_searches import Watcher

DAMAGED = '{"dataset": {}, "settings": 3, "seed": 1, "spaces": [], "storage": ""}'
Prepare = Callable[..., PreparedSearch]


@pytest.fixture
def prepare(workspace: Workspace) -> Prepare:
    """Prepares a search in the workspace with the given settings."""

    def run(dataset: str | None = None, study: str | None = None, **assignments: Any) -> PreparedSearch:
        return prepare_search(SearchRequest(workspace, dataset, study, assignments))

    return run


@pytest.fixture
def study(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> MetricsStore:
    """Returns the records of a study s of digits, of the space cnn alone."""
    store = MetricsStore(workspace, "s")
    settings = Settings(trials=7, spaces=("cnn",)).model_dump(mode="json", exclude={"storage"})
    facts = {"study": "s", "seed": 5, "spaces": ["cnn"], "storage": "", "settings": settings}
    source = "def sample(t, d):\n    return {}\n\ndef build(p, d):\n    return None\n"
    store.write_study({**facts, "dataset": to_json(make_dataset(name="digits"))}, {"cnn": source})
    return store


def test_a_new_study_takes_the_data_sets_name_and_all_spaces(prepare: Prepare) -> None:
    prepared = prepare("digits")
    assert (prepared.name, prepared.continued) == ("digits", False)
    assert [space.name for space in prepared.spaces] == ["cnn", "inception", "resnet"]


def test_names_that_are_taken_are_counted_on(prepare: Prepare, study: MetricsStore, workspace: Workspace) -> None:
    workspace.study("s").rename(workspace.study("digits"))
    assert prepare("digits").name == "digits-2"


def test_the_workspaces_file_counts_unless_the_command_says_otherwise(prepare: Prepare, workspace: Workspace) -> None:
    workspace.settings_file.write_text("trials = 3\nhall_of_fame_size = 2\n")
    settings = prepare("digits", trials="9").settings
    assert (settings.trials, settings.hall_of_fame_size) == (9, 2)


def test_a_drawn_seed_is_recorded_and_a_stated_one_kept(prepare: Prepare) -> None:
    assert prepare("digits", seed="12").seed == 12
    assert prepare("digits").seed != prepare("digits").seed


def test_a_continued_study_keeps_its_settings_seed_and_text_of_its_spaces(
    prepare: Prepare, study: MetricsStore
) -> None:
    prepared = prepare(study="s")
    assert (prepared.continued, prepared.dataset, prepared.seed, prepared.settings.trials) == (True, "digits", 5, 7)
    assert [space.source for space in prepared.spaces] == [study.read_space("cnn")]


def test_a_continued_study_may_take_other_trials_and_spaces(prepare: Prepare, study: MetricsStore) -> None:
    prepared = prepare(study="s", trials="20", spaces="resnet,cnn")
    assert prepared.settings.trials == 20
    assert [space.name for space in prepared.spaces] == ["resnet", "cnn"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "mnist"}, "searches digits"),
        ({"seed": "6"}, "study 's' has 5"),
        ({"train_limit": "100"}, "study 's' has 0"),
        ({"validation_fraction": "0.5"}, "incomparable"),
        ({"objective": "val_loss"}, "study 's' has val_accuracy"),
        ({"storage": "sqlite:///other.db"}, "lives in the workspace's journal"),
    ],
)
def test_what_would_make_values_incomparable_is_refused(
    prepare: Prepare, study: MetricsStore, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(study="s", **changes)


@pytest.mark.parametrize("text", ["{}", '{"dataset": 3}', "not json", DAMAGED])
def test_a_damaged_record_of_a_study_is_one_line(
    prepare: Prepare, study: MetricsStore, workspace: Workspace, text: str
) -> None:
    workspace.study_file("s").write_text(text)
    with pytest.raises(UsageError, match="Restore it"):
        prepare(study="s")


def test_a_setting_that_this_version_has_not_is_left_out_with_a_warning(
    prepare: Prepare, study: MetricsStore, caplog: pytest.LogCaptureFixture
) -> None:
    facts = study.read_study()
    settings = {name: value for name, value in facts["settings"].items() if name != "clipping"}
    study.write_study({**facts, "settings": {**settings, "global_clipnorm": 1.0}}, {})
    prepared = prepare(study="s")
    assert (prepared.settings.trials, prepared.settings.clipping) == (7, "global_norm")
    assert "study 's': global_clipnorm: this version has no such setting any more" in caplog.text


def restate(study: MetricsStore, assignments: dict[str, Any], **facts: Any) -> None:
    """Let the study have been started with these assignments."""
    settings = make_settings(assignments, "settings").model_dump(mode="json", exclude={"storage"})
    study.write_study({**study.read_study(), "settings": settings, **facts}, {})


@pytest.mark.parametrize(
    "stated",
    [
        {"profile": "speed", "batch_size": 64},
        {"profile": "basic", "augmentation": "auto", "precision": "auto"},
        {"profile": "memory", "remat": "auto"},
    ],
)
@pytest.mark.parametrize("again", [(), ("profile",)], ids=["plain", "the profile named again"])
def test_a_continued_study_keeps_what_was_stated_beside_its_profile(
    prepare: Prepare, study: MetricsStore, stated: dict[str, Any], again: tuple[str, ...]
) -> None:
    restate(study, stated)
    settings = prepare(study="s", trials="9", **{name: stated[name] for name in again}).settings
    assert settings == make_settings({**stated, "trials": 9}, "settings")


def test_another_profile_of_a_continued_study_brings_its_row(prepare: Prepare, study: MetricsStore) -> None:
    restate(study, {"profile": "speed", "hall_of_fame_size": 2})
    assert prepare(study="s", profile="basic").settings == make_settings(
        {"profile": "basic", "hall_of_fame_size": 2}, "settings"
    )


def test_a_continued_study_keeps_what_it_was_tuned_to(prepare: Prepare, study: MetricsStore) -> None:
    assert prepare(study="s").tuned is None
    restate(study, {}, tuned={"prefetch_batches": 8, "gone": 1})
    assert prepare(study="s", trials="9").tuned == {"prefetch_batches": 8}
    assert prepare(study="s", autotune="on").tuned is None


def test_a_damaged_tuning_of_a_study_is_refused(prepare: Prepare, study: MetricsStore) -> None:
    restate(study, {}, tuned={"xla": "perhaps"})
    with pytest.raises(UsageError, match="study 's': xla = 'perhaps' is not possible"):
        prepare(study="s")


def search_digits(workspace: Workspace, **assignments: Any) -> Mapping[str, Any]:
    """Explore the study s of digits, one more trial, in a moment; return the plan of its last trial."""
    small = {"train_limit": 100, "exploration_epochs": 1, "spaces": "cnn", "seed": 1, "workers": 1}
    request = SearchRequest(workspace, "digits", "s", {**small, **assignments}, explore_only=True)
    launch_search(request, prepare_search(request), Watcher(), contextlib.nullcontext)
    return MetricsStore(workspace, "s").trials()[-1].plan


def keep_tuned(workspace: Workspace, **values: str | int) -> None:
    dataset = prepare_dataset("digits", Settings().validation_fraction, 1, 100)
    identity = identify(this_machine(), dataset, Settings())
    keep_plan(workspace, TuningPlan(identity, "a model", values, 1.5, 100, (), "2026-01-01T00:00:00+00:00"))


@pytest.mark.skipif(bool(list_gpus()), reason="this machine would be tuned")
def test_a_continued_study_trains_with_the_values_that_it_began_with(workspace: Workspace) -> None:
    keep_tuned(workspace, prefetch_batches=3)
    first = search_digits(workspace, trials=1)
    keep_tuned(workspace, prefetch_batches=5)
    second = search_digits(workspace, trials=2)
    assert MetricsStore(workspace, "s").read_study()["tuned"] == {"prefetch_batches": 3}
    assert [plan["settings"]["prefetch_batches"] for plan in (first, second)] == [3, 3]
    assert first["tuned"] == second["tuned"] == ["prefetch_batches"]


@pytest.mark.skipif(bool(list_gpus()), reason="this machine has GPUs")
@pytest.mark.parametrize("changes", [{"precision": "tf32"}, {"gpus_per_trial": 2}, {"gpu_memory_limit_mb": 1000}])
def test_what_only_gpus_have_is_refused_before_anything_starts(
    prepare: Prepare, study: MetricsStore, workspace: Workspace, changes: dict[str, object]
) -> None:
    for asked in ({"dataset": "digits"}, {"study": "s"}):
        with pytest.raises(UsageError, match="Possible: auto"):
            prepare(**asked, **changes)
    assert not workspace.study("digits").exists()


def test_init_writes_what_is_missing_only(workspace: Workspace) -> None:
    written, kept = launch_init(workspace.root)
    assert (len(written), kept) == (4, [])
    assert launch_init(workspace.root) == ([], written)
