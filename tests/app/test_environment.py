import json
from pathlib import Path

import pytest

from mloptimizer.app.environment import check_environment, examine_environment
from mloptimizer.app.preparation import prepare_search
from mloptimizer.app.probe_checks import run_probe
from mloptimizer.app.search_request import SearchRequest
from mloptimizer.core.errors import UsageError
from mloptimizer.store.workspace import Workspace


@pytest.fixture
def keras_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the path of Keras's own settings, which are not there yet."""
    for name in ("KERAS_BACKEND", "KERAS_MAX_EPOCHS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "keras.json"


def test_an_environment_without_a_word_about_keras_is_sound(keras_json: Path) -> None:
    check_environment()
    keras_json.write_text("not JSON: Keras takes its defaults")
    assert examine_environment().ok


@pytest.mark.usefixtures("keras_json")
@pytest.mark.parametrize(("name", "value"), [("KERAS_BACKEND", "jax"), ("KERAS_MAX_EPOCHS", "few")])
def test_a_variable_that_keeps_keras_from_tensorflow_is_named_before_a_search(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name} = {value}.* Unset {name}"):
        prepare_search(SearchRequest(workspace, "digits"))
    assert examine_environment().advice == f"unset {name}"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("floatx", "float8"), ("image_data_format", "sideways"), ("epsilon", "small"), ("epsilon", 1)],
)
def test_a_value_in_keras_json_that_ends_its_import_is_named(keras_json: Path, setting: str, value: object) -> None:
    keras_json.write_text(json.dumps({setting: value}))
    with pytest.raises(UsageError, match=f"keras.json: {setting} = "):
        check_environment()
    assert "ValueError" in run_probe()["error"], "Keras itself takes it"


@pytest.mark.slow
def test_tensorflow_is_asked_whatever_backend_the_environment_names(
    keras_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras_json.write_text(json.dumps({"backend": "torch"}))
    assert run_probe()["precision"] == {"float32": True}
