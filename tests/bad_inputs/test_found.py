"""What generated inputs have found, each in a plain test of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import EpochRecord
from mloptimizer.core.files import read_json
from mloptimizer.core.nouns import Phase, dataset_from_json, result_from_json
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.orders import Order, OrderName, send_order, take_orders
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.storage import open_storage
from tests.bad_inputs.conftest import digits
from tests.bad_inputs.harness import Said, assert_well_told, run
from tests.small_searches import run_small_search


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(*words: str, cwd: Path) -> str:
    said = run(*words, cwd=cwd)
    assert_well_told(said)
    assert said.code == 2
    return said.err


def shown(*words: str, cwd: Path) -> Said:
    said = run(*words, cwd=cwd)
    assert (said.code, said.err) == (0, "")
    return said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested too deeply"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"a": 1' + "0" * 400 + "}", "1329 bits"),
    ],
)
def test_json_that_nobody_can_work_with_is_refused_where_it_is_read(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("field", ["metrics", "timings", "failure"])
def test_a_result_with_a_field_of_another_type_is_listed_as_unreadable(place: Path, field: str) -> None:
    path = place / "metrics_data/s/trial_00000/result.json"
    edit(path, **{field: ["x"]})
    assert "unreadable" in shown("trials", "s", cwd=place).out
    assert f" {field} " in " ".join(shown("show", "s", "0", cwd=place).out.split())


@pytest.mark.parametrize("readings", [3, "text", [3], [{}], None])
def test_damaged_readings_of_the_test_set_are_told(place: Path, readings: object) -> None:
    (place / "metrics_data/s/test_evaluation.json").write_text(json.dumps({"readings": readings}))
    assert "test_evaluation.json" in " ".join(shown("show", "s", cwd=place).out.split())
    assert "test_evaluation.json: holds no readings" in refused("export", "s", "-o", "out", cwd=place)


@pytest.mark.parametrize(
    "changes", [{"seed": "x"}, {"spaces": 3}, {"spaces": [3]}, {"spaces": ["../../other"]}, {"storage": None}]
)
def test_a_study_whose_facts_have_other_types_is_not_continued(place: Path, changes: dict[str, Any]) -> None:
    edit(place / "metrics_data/s/study.json", **changes)
    assert "s/study.json: " in refused("resume", "s", cwd=place)


def test_the_kept_text_of_a_space_that_is_no_text_is_named(place: Path) -> None:
    (place / "metrics_data/s/search_spaces/line.py").write_bytes(b"\xff")
    assert "line.py: " in refused("resume", "s", cwd=place)


def test_a_damaged_plan_cannot_name_a_file_elsewhere(place: Path) -> None:
    (place / "harm.py").write_text("raise SystemExit(9)")
    for path in place.glob("metrics_data/s/*/plan.json"):
        edit(path, space="../../../harm")
    assert "is not the name of a search space" in refused("export", "s", "-o", "out", cwd=place)


def test_a_persons_copy_of_a_trial_is_no_trial(place: Path) -> None:
    folder = place / "metrics_data/s"
    shutil.copytree(folder / "trial_00000", folder / "trial_00000_copy")
    assert [record.number for record in MetricsStore(Workspace(place), "s").trials()] == list(range(6))


def test_an_older_journal_costs_no_record_of_an_ended_training(place: Path) -> None:
    workspace = Workspace(place)
    lines = workspace.journal.read_bytes().splitlines(keepends=True)
    workspace.journal.write_bytes(b"".join(lines[: len(lines) // 2]))
    before = {path.read_bytes() for path in place.glob("metrics_data/s/[th]*/result.json")}
    run_small_search(workspace, digits(place), trials=6)
    assert before <= {path.read_bytes() for path in place.glob("metrics_data/s/*/result.json")}


def test_epochs_of_other_types_do_not_end_a_search(place: Path) -> None:
    path = place / "metrics_data/s/trial_00000/epochs.jsonl"
    path.write_text(path.read_text() + '{"epoch": "x", "seconds": 1}\n{"epoch": 9, "seconds": "x"}\n{"loss": 1}\n')
    store = MetricsStore(Workspace(place), "s")
    assert store.measure(0, Phase.EXPLORATION) == (3, pytest.approx(0.3))
    store._epochs[0, Phase.EXPLORATION] = 3
    store.record(Phase.EXPLORATION, EpochRecord(0, 3, {}, 0.1))
    assert store.measure(0, Phase.EXPLORATION)[0] == 3


def test_a_result_or_a_data_set_of_other_types_is_a_persons_mistake() -> None:
    with pytest.raises(UsageError, match="result.json of trial 3: is damaged"):
        result_from_json({"number": 3, "outcome": "nothing"})
    with pytest.raises(UsageError, match="its data set is damaged"):
        dataset_from_json({"name": 3})


def test_figures_that_no_float_holds_are_a_dash(place: Path) -> None:
    for path in place.glob("metrics_data/s/*/result.json"):
        edit(path, seconds=1e308, value=-1.7e308)
    path = place / "metrics_data/s/trial_00000/epochs.jsonl"
    path.write_text("".join(f'{{"epoch": {n}, "val_accuracy": {v}}}\n' for n, v in ((1, 1.7e308), (2, -1.7e308))))
    shown("trials", "s", "--sort", "value", cwd=place)
    shown("show", "s", "0", cwd=place)


def test_a_folder_in_the_place_of_an_order_does_not_end_the_search(place: Path) -> None:
    workspace = Workspace(place)
    (workspace.orders("s") / "0.json").mkdir()
    send_order(workspace.orders("s"), Order(OrderName.PAUSE))
    assert [order.name for order in take_orders(workspace.orders("s"))] == ["add_trials", "pause"]
    run_small_search(workspace, digits(place), trials=7)


def test_brackets_in_names_and_texts_are_shown_as_they_are(place: Path) -> None:
    (place / "search_spaces/own.py").write_text('"""Blocks [/x] of [red]."""\nsample = build = print\n')
    assert "[/x] of [red]" in shown("spaces", cwd=place).out
    assert "[/red]" in shown("settings", "--set", "storage=[/red]", cwd=place).out
    edit(place / "metrics_data/s/study.json", settings={"objective": "[/x]"})
    assert "[/x]" in shown("show", "s", "0", cwd=place).out


def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    said = run("init", "\udcff", cwd=tmp_path)
    assert (said.code, said.err) == (0, "")
    assert "wrote \\udcff/system_parameters.py" in said.out


@pytest.mark.parametrize("name", ["a\rb", "a\u2028b", "\x1b[2J", "a\x85b"])
def test_an_error_is_one_line_and_no_command_to_the_terminal(name: str, tmp_path: Path) -> None:
    line = refused("trials", name, cwd=tmp_path)
    assert line[:-1].isprintable()


@pytest.mark.parametrize("words", ["settings", "trials s", "init"])
def test_a_path_that_is_too_long_is_named(words: str, tmp_path: Path) -> None:
    place = "a" * 300
    line = refused(*words.split(), *([place] if words == "init" else ["--workspace", place]), cwd=tmp_path)
    assert "File name too long" in line


@pytest.mark.parametrize("value", ["inf", 2**63, 10**5000], ids=["infinite", "64 bits", "huge"])
def test_a_setting_that_no_record_can_keep_is_refused(value: Any) -> None:
    name = "hang_minutes" if value == "inf" else "trials"
    with pytest.raises(UsageError, match=f"{name} = "):
        make_settings({name: value}, "--set")


def test_a_settings_file_that_would_end_the_program_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "system_parameters.py").write_text("raise SystemExit(0)")
    assert "system_parameters.py, line 1: " in refused("settings", cwd=tmp_path)


def test_a_storage_that_is_not_possible_keeps_its_password(tmp_path: Path) -> None:
    words = ["search", "--dataset", "digits", "--storage"]
    for url in ("sqlite://ann:secret@host", "sqlite://ann:secret@host:x/db", "postgresql://ann:secret@\udcff"):
        assert "secret" not in refused(*words, url, cwd=tmp_path)


def test_an_url_of_sqlite_with_a_port_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sqlite://host:x/db"):
        open_storage("sqlite://host:x/db", tmp_path / "journal")
