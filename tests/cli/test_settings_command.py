"""`mloptimizer settings`: the few, all, and one, at 80 columns."""

from pathlib import Path

import pytest

from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from tests.bad_inputs.harness import Said, run


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def lines(said: Said) -> list[str]:
    assert (said.code, said.err) == (0, "")
    found = said.out.splitlines()
    assert max(map(len, found)) <= 80
    return [line.rstrip() for line in found if line.strip()]


def test_the_fifteen_common_settings_have_a_line_each(tmp_path: Path) -> None:
    *rows, more = lines(run("settings", cwd=tmp_path))
    assert [row.split()[0] for row in rows] == list(Settings.names(common=True))
    assert len(rows) == 15
    assert not any("…" in row for row in rows), "nothing is cut off"
    assert "settings --all" in more


def test_changed_settings_are_shown_with_their_source(tmp_path: Path) -> None:
    (tmp_path / "system_parameters.py").write_text("nice = 3\ntrials = 7\n")
    shown = lines(run("settings", "--profile", "memory", "--set", "remat=off", cwd=tmp_path))
    rows = {row.split()[0]: row.split()[1:4] for row in shown}
    assert rows["nice"][:2] == ["3", "file"]
    assert rows["trials"][:2] == ["7", "file"]
    assert rows["remat"] == ["off", "command", "line"]
    assert rows["accumulation_steps"] == ["4", "profile", "memory"]
    assert rows["seed"][:2] == ["auto", "seed"]
    assert set(PROFILES["memory"]) <= rows.keys()


def test_all_are_shown_by_group(tmp_path: Path) -> None:
    shown = lines(run("settings", "--all", "--profile", "reproducible", cwd=tmp_path))
    first = [line.split()[0] for line in shown if not line.startswith(" ")]
    assert [name for name in first if name in Settings.model_fields] == list(Settings.model_fields)
    assert "Batches and memory" in shown


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_page_of_one_setting_is_complete(name: str, tmp_path: Path) -> None:
    text = "\n".join(lines(run("settings", name, cwd=tmp_path)))
    for title in ("meaning", "value", "default", "possible", "group", "belongs to", "profiles"):
        assert f"\n{title} " in text
    assert Settings.declared(name)["belongs_to"] in text


def test_one_says_where_its_value_comes_from_and_which_profiles_set_it(tmp_path: Path) -> None:
    def value(*words: str) -> str:
        return next(line for line in lines(run("settings", "xla", *words, cwd=tmp_path)) if line.startswith("value"))

    assert "(default)" in value()
    assert '"off" (profile basic)' in value("--profile", "basic")
    assert "(command line)" in value("--set", "xla=on")
    (tmp_path / "system_parameters.py").write_text("xla = 'on'\n")
    assert '"on" (system_parameters.py)' in value()
    assert 'basic: "off", reproducible: "off"' in run("settings", "xla", cwd=tmp_path).out


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    said = run("settings", "batch_sise", cwd=tmp_path)
    assert said.code == 2
    assert "'batch_size'" in said.err
    assert "search_spaces" in run("settings", "learning_rate", cwd=tmp_path).err
