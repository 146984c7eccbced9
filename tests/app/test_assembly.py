from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.app.assembly import run_request
from mloptimizer.app.preparation import prepare_search, read_configurations
from mloptimizer.app.search_request import PreparedSearch, SearchRequest
from mloptimizer.app.workspaces import launch_init
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import MloptimizerError, UsageError
from mloptimizer.core.nouns import DatasetInfo, FailureKind, TrialPlan, failed, to_json
from mloptimizer.data.library import prepare_dataset
from mloptimizer.hardware.read.nvml import list_gpus
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.measurement import this_machine
from mloptimizer.tuning.plans import TuningPlan, identify_tuning, keep_plan

DAMAGED = '{"dataset": {}, "settings": 3, "seed": 1, "spaces": [], "storage": ""}'
Prepare = Callable[..., PreparedSearch]


@pytest.fixture
def prepare(workspace: Workspace) -> Prepare:
    """Prepares a search in the workspace with the given settings."""

    def run(
        dataset: str | None = None, study: str | None = None, more: int = 0, warm_start: str = "", **assignments: Any
    ) -> PreparedSearch:
        return prepare_search(
            SearchRequest(workspace, dataset, study, assignments, more_trials=more, warm_start=warm_start)
        )

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


def test_a_country_that_nobody_knows_is_told_before_anything_is_loaded(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="grid_co2 = XYZ: codecarbon"):
        prepare("digits", grid_co2="XYZ")


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
        ({"dataset": "mnist"}, "'s'.* digits"),
        ({"seed": "6"}, "'s' has 5"),
        ({"train_limit": "100"}, "'s' .* 0"),
        ({"validation_fraction": "0.5"}, "'s' .* 0.2"),
        ({"objective": "val_loss"}, "'s' .* val_accuracy"),
        ({"storage": "sqlite:///other.db"}, "'s' .* journal"),
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
    with pytest.raises(UsageError, match=r"s/study\.json: "):
        prepare(study="s")


def test_a_setting_that_this_version_has_not_is_left_out_with_a_warning(
    prepare: Prepare, study: MetricsStore, caplog: pytest.LogCaptureFixture
) -> None:
    facts = study.read_study()
    settings = {name: value for name, value in facts["settings"].items() if name != "clipping"}
    study.write_study({**facts, "settings": {**settings, "global_clipnorm": 1.0}}, {})
    prepared = prepare(study="s")
    assert (prepared.settings.trials, prepared.settings.clipping) == (7, "global_norm")
    assert "study 's': global_clipnorm: " in caplog.text


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
    with pytest.raises(UsageError, match="study 's': xla = 'perhaps' "):
        prepare(study="s")


def search_digits(workspace: Workspace, **assignments: Any) -> Mapping[str, Any]:
    """Explore the study s of digits, one more trial, in a moment; return the plan of its last trial."""
    small = {"train_limit": 100, "exploration_epochs": 1, "spaces": "cnn", "seed": 1, "workers": 1}
    request = SearchRequest(workspace, "digits", "s", {**small, **assignments}, explore_only=True)
    run_request(request)
    return MetricsStore(workspace, "s").trials()[-1].plan


def keep_tuned(workspace: Workspace, **values: str | int) -> None:
    dataset = prepare_dataset("digits", Settings().validation_fraction, 1, 100)
    identity = identify_tuning(this_machine(), dataset, Settings(workers=1))
    keep_plan(workspace, TuningPlan(identity, "a model", values, 1.5, 100, (), "2026-01-01T00:00:00+00:00"))


@pytest.mark.slow
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


def test_an_address_counts_with_a_cluster_only(prepare: Prepare) -> None:
    with pytest.raises(UsageError, match="Possible: --engine ray"):
        prepare("digits", ray_address="local")
    assert prepare("digits", ray_address="local", engine="ray").settings.ray_address == "local"


def test_init_writes_what_is_missing_only(workspace: Workspace) -> None:
    written, kept = launch_init(workspace.root)
    assert (len(written), kept) == (4, [])
    assert launch_init(workspace.root) == ([], written)


# What changes when a study goes on


def told(prepared: PreparedSearch) -> list[str]:
    """Return what is told of settings; that the space of the study above is not the built-in cnn is told, too."""
    return [note for note in prepared.notes if not note.startswith("search space 'cnn'")]


def test_trials_are_added_to_those_that_a_study_was_to_have(prepare: Prepare, study: MetricsStore) -> None:
    assert prepare(study="s", more=50).settings.trials == 57


def test_trials_cannot_be_added_to_a_new_study(prepare: Prepare) -> None:
    with pytest.raises(UsageError, match=r"--trials \+50: extends an existing study"):
        prepare("digits", more=50)


@pytest.mark.parametrize("text", [DAMAGED, '{"settings": {"trials": "many"}}'])
def test_trials_cannot_be_added_to_a_damaged_record(
    prepare: Prepare, study: MetricsStore, workspace: Workspace, text: str
) -> None:
    workspace.study_file("s").write_text(text)
    with pytest.raises(UsageError, match=r"study\.json: is not the record of a study\. Restore it"):
        prepare(study="s", more=50)


def test_a_study_that_is_merely_continued_has_nothing_to_tell(prepare: Prepare, study: MetricsStore) -> None:
    assert told(prepare(study="s")) == told(prepare(study="s", trials="9", max_hours="2")) == []


def test_a_changed_setting_is_told_with_what_it_was(prepare: Prepare, study: MetricsStore) -> None:
    restate(study, {"spaces": "cnn"}, tuned={"prefetch_batches": 8})
    assert told(prepare(study="s", sampler="random", prefetch_batches="2", spaces="resnet,cnn")) == [
        "spaces = resnet,cnn from now on; so far it was cnn.",
        "sampler = random from now on; so far it was tpe.",
        "prefetch_batches = 2 from now on; so far it was auto (tuned to 8).",
    ]


def test_another_profile_tells_each_setting_that_it_changes(prepare: Prepare, study: MetricsStore) -> None:
    notes = prepare(study="s", profile="basic").notes
    assert any(note.startswith("precision = float32 ") for note in notes)
    assert not any(note.startswith("profile") for note in notes)


def test_what_the_workspaces_file_says_otherwise_is_told_as_it_does_not_count(
    prepare: Prepare, study: MetricsStore, workspace: Workspace
) -> None:
    text = "hall_of_fame_size = 2\nworkers = 3\nseed = 6\nobjective = 'val_loss'\ntrials = 20\nexploration_epochs = 3\n"
    workspace.settings_file.write_text(text)
    prepared = prepare(study="s", exploration_epochs="4")
    assert prepared.settings.hall_of_fame_size == 6
    start = "system_parameters.py: "
    assert [note.removeprefix(start) for note in prepared.notes if note.startswith(start)] == [
        "objective = val_loss is ignored: the study has val_accuracy, which cannot change.",
        "seed = 6 is ignored: the study has 5, which cannot change.",
        "hall_of_fame_size = 2 is ignored: the study has 6; --set hall_of_fame_size=2 changes it.",
        "workers = 3 is ignored: the study has auto; --set workers=3 changes it.",
    ]


def test_a_profile_of_the_workspaces_file_that_does_not_count_is_one_line(
    prepare: Prepare, study: MetricsStore, workspace: Workspace
) -> None:
    workspace.settings_file.write_text("profile = 'basic'\n")
    prepared = prepare(study="s")
    assert prepared.settings.precision == "auto"
    (line,) = told(prepared)
    assert line.startswith("system_parameters.py: profile = basic ") and "--set profile=basic" in line


def test_budgets_are_of_a_run_not_of_a_study(prepare: Prepare, study: MetricsStore, workspace: Workspace) -> None:
    restate(study, {"max_hours": 1.0, "target": 0.9})
    workspace.settings_file.write_text("stop_when_stagnant = 20\n")
    prepared = prepare(study="s", max_disk_mb="10")
    budgets = prepared.settings
    assert (budgets.max_hours, budgets.target, budgets.max_disk_mb) == (0.0, "none", 10.0)
    assert (budgets.stop_when_stagnant, told(prepared)) == (20, [])


def test_a_setting_that_an_older_version_had_not_takes_its_default(prepare: Prepare, study: MetricsStore) -> None:
    facts = study.read_study()
    settings = {name: value for name, value in facts["settings"].items() if name != "hang_minutes"}
    study.write_study({**facts, "settings": settings}, {})
    prepared = prepare(study="s")
    assert (prepared.settings.hang_minutes, told(prepared)) == (10.0, [])


OTHER = "def sample(t, d):\n    return {'x': 1}\n\ndef build(p, d):\n    return None\n"


def test_a_space_that_was_edited_is_told_and_the_study_keeps_its_own_text(
    prepare: Prepare, study: MetricsStore, workspace: Workspace
) -> None:
    workspace.search_spaces.mkdir()
    path = workspace.search_spaces / "cnn.py"
    path.write_text("\ufeff" + study.read_space("cnn"), encoding="utf-8")
    assert prepare(study="s").notes == ()
    path.write_text(OTHER)
    prepared = prepare(study="s")
    assert [space.source for space in prepared.spaces] == [study.read_space("cnn")]
    (note,) = prepared.notes
    assert note.startswith(f"search space 'cnn': {path} ")


def fail_for_the_space(study: MetricsStore, make_plan: Callable[..., TrialPlan], numbers: range, text: str) -> None:
    for number in numbers:
        study.start(make_plan(number, study="s", space="cnn", space_source=text))
        study.finish(make_plan().phase, failed(number, FailureKind.SPACE_ERROR, "no such layer"))


def test_a_space_whose_every_trial_failed_for_its_fault_is_fixed_by_the_workspaces_text(
    prepare: Prepare, study: MetricsStore, workspace: Workspace, make_plan: Callable[..., TrialPlan]
) -> None:
    workspace.search_spaces.mkdir()
    (workspace.search_spaces / "cnn.py").write_text(OTHER)
    trials = prepare(study="s").settings.trials
    fail_for_the_space(study, make_plan, range(3), study.read_space("cnn"))
    study.start(make_plan(3, study="s", space="cnn"))  # it ran as the search ended
    prepared = prepare(study="s")
    assert [space.source for space in prepared.spaces] == [OTHER]
    assert "it made all its trials fail. The text in" in prepared.notes[0]
    assert prepared.settings.trials == trials + 3
    study.start(make_plan(4, study="s", space="cnn"))
    study.finish(make_plan().phase, failed(4, FailureKind.ERROR, "something else"))
    assert [space.source for space in prepare(study="s").spaces] == [study.read_space("cnn")]
    assert prepare(study="s").settings.trials == trials


def test_of_a_space_that_was_fixed_twice_only_the_trials_of_the_last_text_are_made_up_for(
    prepare: Prepare, study: MetricsStore, workspace: Workspace, make_plan: Callable[..., TrialPlan]
) -> None:
    workspace.search_spaces.mkdir()
    (workspace.search_spaces / "cnn.py").write_text(OTHER)
    trials = prepare(study="s").settings.trials
    fail_for_the_space(study, make_plan, range(3), "the first text")
    fail_for_the_space(study, make_plan, range(3, 5), study.read_space("cnn"))
    assert prepare(study="s").settings.trials == trials + 2


# What a search takes over


def test_a_study_does_not_learn_from_itself(prepare: Prepare, study: MetricsStore) -> None:
    with pytest.raises(UsageError, match="--warm-start s: is this study"):
        prepare(study="s", warm_start="s")


def test_a_password_in_the_earlier_studys_storage_is_never_printed(prepare: Prepare) -> None:
    for url in ("nothing://ann:secret@host/db", "postgresql://ann:secret@127.0.0.1:1/db", "mysql://ann:secret@h:x/db"):
        with pytest.raises(MloptimizerError, match=r"ann:\*\*\*@") as caught:
            prepare("digits", warm_start=f"old@{url}")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, ".*JSON"),
        (f'{{"space": "cnn", "width": {"9" * 5000}}}', ".*JSON"),
        ("[]", "holds no configuration"),
        ("3", "entry 1 is not a configuration"),
        ('[{"space": "cnn"}, 3]', "entry 2 "),
        ('{"width": 3}', "entry 1 "),
        ('{"space": 3}', "entry 1 "),
        ('{"space": "cnn", "width": null}', "entry 1 "),
        ('{"space": "cnn", "width": [3]}', "entry 1 "),
    ],
)
def test_a_file_without_configurations_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"^--enqueue {path}: {says}") as caught:
        read_configurations(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_or_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "known.json").write_bytes(b"\xff\xfe\x00")
    for name in ("known.json", "missing.json"):
        with pytest.raises(UsageError, match=name):
            read_configurations(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"space": "cnn", "widht": 32}', "configuration 1: .*'cnn'.*'widht'"),
        ('[{"space": "cnn"}, {"space": "cnn", "width": 33}]', "configuration 2: .*'cnn'.*width = 33 "),
        ('{"space": "cnn", "learning_rate": NaN}', "configuration 1: .*'cnn'.*learning_rate = nan "),
        ('{"space": "resnt"}', "configuration 1: .*'resnt'"),
    ],
)
def test_a_configuration_that_does_not_fit_ends_the_search_before_anything_is_created(
    workspace: Workspace, text: str, says: str
) -> None:
    path = workspace.root / "known.json"
    path.write_text(text)
    request = SearchRequest(workspace, "digits", "s", enqueue=path)
    with pytest.raises(UsageError, match=f"^--enqueue, {says}"):
        run_request(request)
    assert list(workspace.root.iterdir()) == [path]
