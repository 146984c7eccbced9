"""Any text in the place of a name or a path: nothing outside the workspace is made, changed or removed."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mloptimizer.app import assembly
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.nouns import Phase
from mloptimizer.store.workspace import Workspace
from tests.bad_inputs.harness import REPEATABLE, assert_well_told, plain_text, run, snapshot

names = st.one_of(
    plain_text,
    st.sampled_from(["../s", "..", ".", "/", "s/../s", "s/", "../../place", "trial_00000", "s-hall-of-fame", "~", "*"]),
    st.sampled_from(["CON", "nul", "LPT1.txt", "a" * 101, "a" * 300, "a/" * 3000, "\udcff", "-s", "--help", "s ", "S"]),
    st.sampled_from(["studies.journal", "[/red]", "%s", "{}", "a\nb", "\r", "\u2028", "\x1b]0;x\x07", "metrics_data"]),
)
STUDY_COMMANDS = ("trials", "show", "hardware", "export -o out", "stop", "pause", "resume", "add-trials")


@pytest.fixture(autouse=True)
def _without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise RunError("prepared")

    monkeypatch.setattr(assembly, "_prepare_dataset", stop)


@pytest.fixture(autouse=True)
def _surroundings(place: Path) -> None:
    """Write beside the workspace what a path that leads outside would find."""
    for name in ("s", "metrics_data/s", "search_spaces"):
        (place.parent / name).mkdir(parents=True)
    (place.parent / "metrics_data/s/study.json").write_text("{}")
    (place.parent / "search_spaces/own.py").write_text("raise SystemExit(9)")


@given(name=names, command=st.sampled_from(STUDY_COMMANDS))
@settings(REPEATABLE, max_examples=70)
def test_the_name_of_a_study_may_be_any_text(place: Path, name: str, command: str) -> None:
    before = snapshot(place.parent)
    first, *rest = command.split()
    end = ["3"] if first == "add-trials" else []
    assert_well_told(run(first, *rest, "--", name, *end, cwd=place))
    assert snapshot(place.parent) == before


@pytest.mark.slow
@given(
    name=names, option=st.sampled_from(["--study", "--dataset", "--space", "--warm-start", "--profile", "--enqueue"])
)
@settings(REPEATABLE, max_examples=60)
def test_every_name_in_a_search_may_be_any_text(place: Path, name: str, option: str) -> None:
    before = snapshot(place.parent)
    assert_well_told(run("search", "--dataset", "digits", f"{option}={name}", cwd=place))
    assert snapshot(place.parent) == before


@given(name=names, command=st.sampled_from(["trials s", "show s 0", "settings", "spaces", "add-trials s 1", "init"]))
@example("a" * 300, "trials s")
@example("\udcff", "init")
@settings(REPEATABLE, max_examples=60)
def test_a_workspace_may_be_any_path(place: Path, name: str, command: str) -> None:
    before = snapshot(place.parent)
    inside = f"inside/{name}".replace("..", "")
    words = ["init", "--", inside] if command == "init" else [*command.split(), f"--workspace={inside}"]
    assert_well_told(run(*words, cwd=place))
    after = snapshot(place.parent)
    assert {key: after.get(key) for key in before} == before
    assert all(key.startswith("work/inside") for key in after.keys() - before.keys())


@given(name=st.one_of(names, st.text(max_size=120)))
@settings(REPEATABLE, max_examples=100)
def test_no_path_of_a_study_leaves_the_workspace(name: str) -> None:
    workspace = Workspace(Path("/workspace"))
    try:
        paths = [
            workspace.study(name),
            workspace.trial(name, 3),
            workspace.hardware_log(name, 3, Phase.TEST_EVALUATION),
        ]
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        return
    homes = (workspace.metrics, workspace.hardware_logs)
    assert all(path.resolve().parent in (*homes, homes[0] / name, homes[1] / name) for path in paths)
