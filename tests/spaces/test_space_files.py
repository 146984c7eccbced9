"""Reading, sampling and naming of search spaces; nothing here needs TensorFlow."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.spaces.space_files import (
    LEARNING_RATES,
    RandomSuggest,
    SearchSpace,
    builtin_folder,
    find_spaces,
    load_space,
    read_spaces,
    sample_params,
    suggest_optimizer,
)

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (96, 96, 3), (5, 7, 3), (1, 1, 1), (224, 160, 4)]
EMPTY = '"""A space."""\ndef sample(trial, dataset): return {}\ndef build(params, dataset): return None\n'


def sampling(body: str) -> SearchSpace:
    return load_space("own", EMPTY.replace("return {}", body), "own.py")


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder for a person's own search spaces."""
    folder = tmp_path / "search_spaces"
    folder.mkdir()
    return folder


def test_the_built_in_spaces_are_found_where_a_person_has_no_own_folder(tmp_path):
    spaces = read_spaces([], tmp_path / "missing")
    assert [space.name for space in spaces] == ["cnn", "inception", "resnet"]
    assert all(space.summary.endswith(".") for space in spaces)


def test_a_space_of_the_workspace_hides_the_built_in_one_of_the_same_name(own_folder):
    own = own_folder / "resnet.py"
    own.write_text(EMPTY)
    found = find_spaces(own_folder)
    assert found["resnet"] == own
    assert found["cnn"] == builtin_folder() / "cnn.py"
    assert read_spaces(["resnet"], own_folder)[0].summary == "A space."


def test_files_that_start_with_an_underscore_or_are_not_python_are_skipped(own_folder):
    for name in ("_parts.py", "__init__.py", "notes.txt"):
        (own_folder / name).write_text(EMPTY)
    assert set(find_spaces(own_folder)) == {"cnn", "inception", "resnet"}


def test_a_file_whose_name_is_not_an_identifier_is_skipped_with_a_warning(own_folder, caplog):
    (own_folder / "my-space.py").write_text(EMPTY)
    assert "my-space" not in find_spaces(own_folder)
    assert "my-space.py: " in caplog.text


def test_spaces_are_read_in_the_order_asked_for_and_once_each(tmp_path):
    assert [s.name for s in read_spaces(["resnet", "cnn", "resnet"], tmp_path)] == ["resnet", "cnn"]


def test_an_unknown_space_is_answered_with_the_nearest_one(tmp_path):
    with pytest.raises(UsageError, match=r"--space: there is no search space 'resnt'\. Did you mean 'resnet'"):
        read_spaces(["resnt"], tmp_path)


def test_a_broken_space_is_reported_with_its_place_and_leaves_the_others_usable(own_folder):
    broken = own_folder / "broken.py"
    broken.write_text("x = 1\ndef sample(:\n")
    assert read_spaces(["cnn"], own_folder)[0].name == "cnn"
    with pytest.raises(UsageError) as error:
        read_spaces([], own_folder)
    assert str(error.value).startswith(f"{broken}, line 2: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nimport no_such_thing\n", "own.py, line 2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def f():\n    return 1 / 0\n\nf()\n", "own.py, line 2: ZeroDivisionError"),
        ("raise ValueError('two\\nlines')", "own.py, line 1: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", "own.py, line 2: SystemExit: 3"),
        ("x = 'a\0b'", "own.py"),
        ("def build(params, dataset): ...", "own.py: does not define the function 'sample'"),
        ("sample = build = 3", "own.py: does not define the function 'sample'"),
        ("def sample(trial, dataset): ...", "own.py: does not define the function 'build'"),
    ],
)
def test_a_text_that_is_not_a_space_is_explained_in_one_line(text, said):
    with pytest.raises(UsageError) as error:
        load_space("own", text, "own.py")
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_text_is_explained(own_folder):
    (own_folder / "own.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"own\.py: is not UTF-8 text"):
        read_spaces(["own"], own_folder)


def test_a_file_with_a_byte_order_mark_is_read(own_folder):
    (own_folder / "own.py").write_text(EMPTY, encoding="utf-8-sig")
    assert read_spaces(["own"], own_folder)[0].summary == "A space."


def test_the_text_of_a_function_is_found_without_a_file():
    space = load_space("own", EMPTY, "/nowhere/own.py")
    assert inspect.getsource(space.build) == EMPTY.splitlines(keepends=True)[-1]
    assert space.source == EMPTY


def test_a_space_may_define_dataclasses():
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    assert load_space("own", text + EMPTY.partition("\n")[2], "own.py").name == "own"


def test_two_texts_of_the_same_name_keep_their_own_functions(make_dataset):
    first, second = (sampling("return {'x': LIMIT}\nLIMIT = 1"), sampling("return {'x': LIMIT}\nLIMIT = 2"))
    drawn = [sample_params(space, RandomSuggest(0), make_dataset())["x"] for space in (first, second)]
    assert drawn == [1, 2]


@pytest.mark.parametrize("body", ["return 3", "return {1: 2}", "return {'x': [1]}", "return {'x': float('nan')}"])
def test_a_sample_that_is_not_plain_data_is_refused(body, make_dataset):
    with pytest.raises(UsageError, match=r"own\.py: sample returned .* Possible: "):
        sample_params(sampling(body), RandomSuggest(0), make_dataset())


def test_a_sample_that_raises_is_explained_with_its_line(make_dataset):
    with pytest.raises(UsageError, match=r"own\.py, line 2: ValueError: parameter 'x': the range 3 to 1"):
        sample_params(sampling("return {'x': trial.suggest_int('x', 3, 1)}"), RandomSuggest(0), make_dataset())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["cnn", "inception", "resnet"])
def test_every_draw_is_plain_json_with_an_optimizer(name, shape, tmp_path, make_dataset):
    space = read_spaces([name], tmp_path)[0]
    for seed in range(100):
        params = sample_params(space, RandomSuggest(seed), make_dataset(input_shape=shape))
        assert json.loads(json.dumps(params, allow_nan=False)) == params
        low, high = LEARNING_RATES[str(params["optimizer"])]
        assert low <= float(params["learning_rate"]) <= high
        assert ("groups" in params) == (params["normalization"] == "group")


@pytest.mark.parametrize("name", ["cnn", "inception", "resnet"])
def test_sampling_the_same_seed_gives_the_same_configuration(name, tmp_path, make_dataset):
    space, dataset = read_spaces([name], tmp_path)[0], make_dataset(input_shape=(32, 32, 3))
    draws = [sample_params(space, RandomSuggest(seed), dataset) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_every_optimizer_is_drawn_and_has_a_learning_rate_of_its_own():
    drawn = {}
    for seed in range(50):
        trial = RandomSuggest(seed)
        params = suggest_optimizer(trial)
        drawn[params["optimizer"]] = trial.params
        assert trial.params[f"{params['optimizer']}_learning_rate"] == params["learning_rate"]
    assert set(drawn) == set(LEARNING_RATES)


def test_random_suggestions_stay_in_their_range_and_reach_its_ends():
    trials = [RandomSuggest(seed) for seed in range(400)]
    assert {t.suggest_int("i", 2, 8, step=3) for t in trials} == {2, 5, 8}
    assert {t.suggest_int("l", 1, 3, log=True) for t in trials} == {1, 2, 3}
    assert {t.suggest_float("s", 0.0, 0.2, step=0.1) for t in trials} == {0.0, 0.1, 0.2}
    assert {t.suggest_categorical("c", ["a", "b"]) for t in trials} == {"a", "b"}
    assert all(-1 <= t.suggest_float("f", -1, 1) < 1 for t in trials)


def test_a_log_range_is_drawn_evenly_over_its_orders_of_magnitude():
    drawn = [RandomSuggest(seed).suggest_float("x", 1e-4, 1.0, log=True) for seed in range(1000)]
    assert 0.4 < sum(value < 1e-2 for value in drawn) / len(drawn) < 0.6


def test_a_name_that_is_asked_for_again_keeps_its_value():
    trial = RandomSuggest(0)
    assert len({trial.suggest_float("x", 0, 1) for _ in range(5)}) == 1
    assert list(trial.params) == ["x"]


def test_reading_and_sampling_never_import_tensorflow():
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
from mloptimizer.spaces.space_files import RandomSuggest, read_spaces, sample_params
for space in read_spaces([], Path("missing")):
    sample_params(space, RandomSuggest(0), SimpleNamespace(input_shape=(32, 32, 3), classes=10))
print([name for name in ("tensorflow", "keras", "numpy", "optuna") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_space_is_frozen(tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_spaces(["cnn"], tmp_path)[0].name = "other"
