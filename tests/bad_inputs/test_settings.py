"""Any text in the place of a setting, and any bytes in the settings' file: one line says what is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mloptimizer.app import assembly
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import RunError
from tests.bad_inputs.harness import REPEATABLE, assert_well_told, json_values, plain_text, run, snapshot

OPTIONS = (
    *("--trials", "--profile", "--workers", "--max-hours", "--max-kwh", "--max-disk", "--target", "--seed"),
    *("--stop-when-stagnant", "--profile-trial", "--space", "--dataset", "--study", "--warm-start", "--enqueue"),
    *("--set", "--nothing", "-x"),
)
names = st.sampled_from(sorted(Settings.model_fields))
words = st.one_of(
    plain_text,
    st.sampled_from(["nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5000, "0x1", "1_0", "٣", "", "auto", "[/red]"]),
    st.sampled_from(["-1", "+0", "+" + "9" * 12, "true", "s@", "@", "s@sqlite://", "s@journal", "a\nb", "\x1b[2J"]),
)


@pytest.fixture(autouse=True)
def _without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise RunError("prepared")

    monkeypatch.setattr(assembly, "_prepare_dataset", stop)


@given(name=names, value=words)
@example("trials", "9" * 400)
@example("storage", "[/red]")
@settings(REPEATABLE, max_examples=40)
def test_set_takes_any_text(place: Path, name: str, value: str) -> None:
    before = snapshot(place)
    assert_well_told(run("settings", "--set", f"{name}={value}", cwd=place))
    assert_well_told(run("search", "--dataset", "digits", "--set", f"{name}={value}", cwd=place))
    assert snapshot(place) == before


@pytest.mark.slow
@given(option=st.sampled_from(OPTIONS), value=words)
@settings(REPEATABLE, max_examples=60)
def test_every_option_takes_any_text(place: Path, option: str, value: str) -> None:
    before = snapshot(place)
    said = run("search", "--dataset", "digits", option, value, cwd=place)
    assert said.code in (1, 2)
    assert_well_told(said)
    assert snapshot(place) == before


assignments = st.builds(
    lambda name, value: f"{name} = {value!r}\n".encode(errors="surrogatepass"),
    st.one_of(names, st.sampled_from(["trial", "x", "_own"])),
    st.one_of(json_values, words),
)
garbage = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode(errors="replace")),
    st.sampled_from(
        [
            *(b"raise SystemExit(3)", b"raise ValueError('a\\nb')", b"import nothing", b"trials = 10**5000", b"1 / 0"),
            *(
                b"seed = -10**5000",
                b"(" * 500,
                b"# coding: nothing",
                b"trials = trials",
                b"\x00",
                b"def f(:\n",
                b"exit()",
            ),
            *(b"spaces = ['a']\nspaces.append(spaces)", b"spaces = ('\\ud800',)", b"storage = '\\0'", b"'" * 3),
        ]
    ),
)


@pytest.mark.slow
@given(text=st.one_of(st.lists(assignments, max_size=3).map(b"".join), garbage))
@example(b"raise SystemExit(0)")
@example(b"trials = 10**5000")
@example(b"storage = '\\0'")
@settings(REPEATABLE, max_examples=60)
def test_the_settings_file_may_hold_anything(place: Path, text: bytes) -> None:
    (place / "system_parameters.py").write_bytes(text)
    before = snapshot(place)
    assert_well_told(run("settings", cwd=place))
    assert_well_told(run("search", "--dataset", "digits", cwd=place))
    assert_well_told(run("resume", "s", cwd=place))
    orders = {name: content for name, content in before.items() if "/orders/" in name}  # the next search removes them
    assert {**orders, **snapshot(place)} == before


@pytest.mark.slow
@given(value=st.one_of(st.lists(json_values, max_size=3), json_values), space=st.sampled_from(["line", "cnn", 3, None]))
@settings(REPEATABLE, max_examples=40)
def test_a_file_to_enqueue_may_hold_any_json(place: Path, value: object, space: object) -> None:
    entry = {"space": space, **value} if isinstance(value, dict) else value
    (place / "try.json").write_text(json.dumps(entry))
    before = snapshot(place)
    assert_well_told(run("search", "--dataset", "digits", "--enqueue", "try.json", cwd=place))
    assert snapshot(place) == before


secrets = st.text(
    st.characters(categories=["Lu", "Ll", "Nd", "P", "S"], exclude_characters="'\\\"*"), min_size=6, max_size=20
)


@given(
    secret=secrets.map(lambda text: f"Q{text}Z"),
    scheme=st.sampled_from(["postgresql", "mysql", "postgres", "nothing", "sqlite", "postgresql+psycopg"]),
    host=st.sampled_from(["127.0.0.1:1", "127.0.0.1:x", "[::1", "", "/", "127.0.0.1:1/db?a=b"]),
)
@settings(REPEATABLE, max_examples=30)
def test_a_password_is_never_printed(place: Path, secret: str, scheme: str, host: str) -> None:
    url = f"{scheme}://ann:{secret}@{host}"
    for option, value in (("--storage", url), ("--warm-start", f"old@{url}"), ("--set", f"storage={url}")):
        said = run("search", "--dataset", "digits", option, value, cwd=place)
        assert_well_told(said)
        assert secret not in said.out + said.err
