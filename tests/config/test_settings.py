from pathlib import Path

import pytest

from mloptimizer.config.declaring import BELONGS_TO
from mloptimizer.config.settings import Settings
from mloptimizer.config.settings_file import (
    literal,
    parse_assignments,
    read_settings_file,
    render_settings_file,
)
from mloptimizer.config.values import OF_SPACES, describe_choices, make_settings, settings_by_group
from mloptimizer.core.errors import UsageError
from mloptimizer.spaces import suggest_optimizer
from mloptimizer.spaces.space_files import RandomSuggest
from mloptimizer.spaces.training_values import TRAINING_VALUES


def test_the_rendered_file_states_every_setting_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "system_parameters.py"
    path.write_text(render_settings_file())
    stated = {line.split(" = ")[0] for line in path.read_text().splitlines() if " = " in line and line[0] != "#"}
    assert stated == set(Settings.model_fields)
    assert read_settings_file(path) == Settings()


def test_the_repository_has_the_rendered_file() -> None:
    path = Path(__file__).parents[2] / "system_parameters.py"
    assert path.read_text() == render_settings_file()


def settings_table() -> str:
    """Return the settings as the Markdown tables of the docs, with what they can belong to before them."""
    lines = [f"- `{belongs_to}`: {meaning}" for belongs_to, meaning in BELONGS_TO.items()]
    for group, names in settings_by_group().items():
        lines += ["", f"### {group}", ""]
        lines += ["| setting | default | belongs to | meaning | possible |", "|---|---|---|---|---|"]
        for name in names:
            facts = Settings.declared(name)
            cells = (f"`{name}`", f"`{literal(facts['default'])}`", facts["belongs_to"], facts["description"])
            lines.append(f"| {' | '.join(cells)} | {describe_choices(name)} |")
    return "\n".join(lines) + "\n"


def test_the_docs_have_the_table_of_settings() -> None:
    assert settings_table() in (Path(__file__).parents[2] / "docs" / "settings.md").read_text()


def test_changed_settings_survive_the_file(tmp_path: Path) -> None:
    settings = Settings(spaces=("cnn", "resnet"), seed=7, workers=3, precision="float32", storage='sqlite:///a"b.db')
    path = tmp_path / "system_parameters.py"
    path.write_text(render_settings_file(settings))
    assert read_settings_file(path) == settings


def test_every_setting_says_what_it_means_and_what_is_possible() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description
        assert describe_choices(name)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("trials", "12", 12),
        ("seed", "auto", "auto"),
        ("seed", "3", 3),
        ("warm_start_hall_of_fame", "false", False),
        ("spaces", "resnet, cnn", ("resnet", "cnn")),
        ("warmup_epochs", "0.5", 0.5),
    ],
)
def test_texts_become_values(name: str, text: str, value: object) -> None:
    assert getattr(make_settings({name: text}, "--set"), name) == value


@pytest.mark.parametrize(
    ("name", "text", "possible"),
    [
        ("trials", "0", "a whole number >= 1"),
        ("trials", "many", "a whole number >= 1"),
        ("workers", "0", "a whole number >= 1 or 'auto'"),
        ("validation_fraction", "1", "a number > 0 and < 1"),
        ("validation_fraction", "nan", "a number > 0 and < 1"),
        ("pruner", "mean", "median, hyperband"),
        ("warm_start_hall_of_fame", "perhaps", "true or false"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_possible(name: str, text: str, possible: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_settings({name: text}, "--set")
    assert f"--set: {name} = '{text}' is not possible. Possible: {possible}" in str(caught.value)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no setting 'exploration_epoch'. Did you mean 'exploration_epochs'"):
        make_settings({"exploration_epoch": 3}, "--set")


def test_an_assignment_without_equals_is_refused() -> None:
    with pytest.raises(UsageError, match="--set trials: expected NAME=VALUE"):
        parse_assignments(["trials"])


def test_a_value_may_hold_equals_signs() -> None:
    assert parse_assignments(["storage=postgresql://h/d?a=b"]) == {"storage": "postgresql://h/d?a=b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trials = ", "line 1: invalid syntax"),
        ("trials = 0", "trials = 0 is not possible"),
        ("seed = 1\ntrails = 3", "line 2: there is no setting 'trails'. Did you mean 'trials'?"),
    ],
)
def test_a_bad_settings_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "system_parameters.py"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_settings_file(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_may_compute(tmp_path: Path) -> None:
    path = tmp_path / "system_parameters.py"
    path.write_text("_half = 4\ntrials = _half * 5 // 2\n")
    assert read_settings_file(path).trials == 10


def test_a_typo_gets_the_nearest_three_names_only() -> None:
    with pytest.raises(UsageError) as caught:
        make_settings({"batch": 3}, "--set")
    named = [name for name in Settings.model_fields if f"'{name}'" in str(caught.value)]
    assert 1 <= len(named) <= 3
    assert "mloptimizer settings --all" in str(caught.value)


@pytest.mark.parametrize("name", OF_SPACES)
def test_the_error_for_a_space_parameter_says_where_to_fix_it(name: str) -> None:
    with pytest.raises(UsageError, match=r"search_spaces/NAME\.py"):
        make_settings({name: "1"}, "--set")


def test_the_parameters_of_spaces_are_those_suggested_for_the_optimizer() -> None:
    assert set(suggest_optimizer(RandomSuggest(0))) == set(OF_SPACES)
    assert set(TRAINING_VALUES) - set(Settings.model_fields) == set(OF_SPACES)


def test_trials_that_share_gpus_have_one_each() -> None:
    with pytest.raises(UsageError, match=r"trials_per_gpu: .* Possible: trials_per_gpu = 1, or gpus"):
        make_settings({"trials_per_gpu": "auto", "gpus_per_trial": "2"}, "--set")
    for gpus in ("auto", "1"):
        assert make_settings({"trials_per_gpu": "3", "gpus_per_trial": gpus}, "--set").trials_per_gpu == 3


def test_the_thread_engine_runs_one_trial_at_a_time() -> None:
    assert make_settings({"engine": "thread", "workers": "1"}, "--set").engine == "thread"
    for changes in ({"workers": "2"}, {"trials_per_gpu": "auto"}, {"nice": "3"}):
        with pytest.raises(UsageError, match="engine = thread"):
            make_settings({"engine": "thread", **changes}, "--set")
