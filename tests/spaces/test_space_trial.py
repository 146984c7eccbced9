"""What `sample` may ask its trial: Optuna's methods, the older ones too, and nothing else."""

import pytest

from mloptimizer.spaces.space_files import RandomSuggest
from mloptimizer.spaces.space_trial import Trial


def test_the_older_names_and_a_step_by_position_ask_the_same() -> None:
    asked, meant = Trial(RandomSuggest(1)), RandomSuggest(1)
    assert asked.suggest_uniform("a", 0, 1) == meant.suggest_float("a", 0, 1)
    assert asked.suggest_loguniform("b", 1e-4, 1e-2) == meant.suggest_float("b", 1e-4, 1e-2, log=True)
    assert asked.suggest_discrete_uniform("c", 0, 1, 0.25) == meant.suggest_float("c", 0, 1, step=0.25)
    assert asked.suggest_int("d", 32, 128, 32) == meant.suggest_int("d", 32, 128, step=32)
    assert asked.suggest_float("e", 0.0, 1.0, 0.5) == meant.suggest_float("e", 0.0, 1.0, step=0.5)
    assert asked.suggest_categorical("f", (x for x in "abc")) == meant.suggest_categorical("f", "abc")
    assert asked.params == meant.params


@pytest.mark.parametrize("name", ["number", "user_attrs", "set_user_attr", "report", "should_prune", "distributions"])
def test_what_a_trial_does_not_have_is_refused_with_what_it_has(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"trial has no '{name}' here\. Possible: suggest_int, suggest_float, "):
        getattr(Trial(RandomSuggest(0)), name)


def test_a_wrong_call_does_not_name_an_inner_class() -> None:
    with pytest.raises(TypeError, match=r"^Trial\.suggest_int\(\) missing 1 required"):
        Trial(RandomSuggest(0)).suggest_int("x", 1)  # type: ignore[call-arg]
