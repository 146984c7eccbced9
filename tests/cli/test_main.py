import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mloptimizer.cli.main import COMMANDS, commands
from mloptimizer.core.nouns import TrialPlan
from mloptimizer.store.workspace import Workspace
from tests.bad_inputs.harness import run
from tests.reports.study_files import StudyWriter

NAMES = [name for group in COMMANDS.values() for name in group]


@pytest.fixture
def one_study(tmp_path: Path, make_plan: Callable[..., TrialPlan]) -> Path:
    """A workspace with the study 'test', of which two trials are completed."""
    study = StudyWriter(Workspace(tmp_path), make_plan)
    study.complete(0, 0.5)
    study.complete(1, 0.75)
    return tmp_path


def load(name: str) -> click.Command:
    return commands.get_command(click.Context(commands), name)


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_commands_has_the_first_line_of_each_help(name: str) -> None:
    line = next(group[name][1] for group in COMMANDS.values() if name in group)
    assert (load(name).help or "").splitlines()[0] == line
    assert len(line) < 66  # beside the name, on 80 columns


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_ends_with_examples_that_it_takes(name: str, tmp_path: Path) -> None:
    help_text = run(name, "-h", cwd=tmp_path).out
    _, _, examples = help_text.partition("Example")
    lines = [line.split()[1:] for line in examples.splitlines()[1:] if line.strip()]
    assert lines
    for word, *rest in lines:
        assert word == name
        load(name).make_context(name, rest, resilient_parsing=name == "cluster")


def test_every_module_of_a_command_is_in_the_list() -> None:
    for group in COMMANDS.values():
        for name, (module, _) in group.items():
            assert load(name) is getattr(importlib.import_module(f"mloptimizer.cli.{module}"), name.replace("-", "_"))


def test_the_program_alone_says_what_to_do_first(tmp_path: Path) -> None:
    said = run(cwd=tmp_path)
    assert (said.code, "mloptimizer search digits" in said.out) == (0, True)


def test_a_data_set_may_be_an_argument_or_an_option_but_not_two(tmp_path: Path) -> None:
    for words in (("nowhere",), ("--dataset", "nowhere"), ("nowhere", "--dataset", "nowhere")):
        said = run("search", *words, cwd=tmp_path)
        assert (said.code, "'nowhere'" in said.err) == (2, True)
    said = run("search", "digits", "--dataset", "mnist", cwd=tmp_path)
    assert said.code == 2
    assert all(word in said.err for word in ("--dataset mnist", "'digits'"))


@pytest.mark.parametrize("words", [("digits",), ("--dataset", "digits"), ("--epochs", "3")])
def test_options_without_effect_on_the_machine_bench_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run("bench", "--machine", *words, cwd=tmp_path).code == 2


def test_without_a_name_the_newest_study_is_shown_and_named(
    one_study: Path, make_plan: Callable[..., TrialPlan]
) -> None:
    said = run("show", cwd=one_study)
    assert (said.code, said.err, "Study test" in said.out) == (0, "", True)
    assert "Trial 1 of study test" in run("show", "1", cwd=one_study).out
    older = one_study / "metrics_data" / "older"
    older.mkdir()
    (older / "study.json").write_text((one_study / "metrics_data/test/study.json").read_text())
    time.sleep(0.01)
    (one_study / "metrics_data/test/study.json").touch()
    said = run("trials", cwd=one_study)
    assert (said.code, "'test', the newest of 2" in said.err, "2 trials" in said.out) == (0, True, True)


def test_only_a_running_search_is_stopped_without_its_name(one_study: Path) -> None:
    for words in (("stop",), ("pause",), ("add-trials", "3")):
        said = run(*words, cwd=one_study)
        assert (said.code, "mloptimizer studies" in said.err) == (2, True)
    assert run("add-trials", "test", "3", cwd=one_study).code == 0


def test_the_studies_are_listed_with_state_and_best_value(one_study: Path) -> None:
    (study,) = json.loads(run("studies", "--json", cwd=one_study).out)
    assert (study["name"], study["state"], study["done"]) == ("test", "stopped", 2)
    assert (study["best"], study["trial"]) == (0.75, 1)
    assert "0.7500" in run("studies", cwd=one_study).out
    (one_study / "metrics_data/test/study.json").write_text("{")
    assert "unreadable" in run("studies", cwd=one_study).out


def test_a_workspace_without_a_study_says_how_to_begin(tmp_path: Path) -> None:
    assert run("studies", cwd=tmp_path).code == 0
    said = run("show", cwd=tmp_path)
    assert (said.code, "mloptimizer search digits" in said.err) == (2, True)
