"""What each value may be by which a space has its models trained; whatever its type, an impossible one is named."""

import math
from collections.abc import Callable

import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, sample_params
from mloptimizer.spaces.training_values import TRAINING_VALUES, check_training_values

NUMBERS = [name for name in TRAINING_VALUES if name not in ("optimizer", "schedule")]
NO_NUMBERS = [
    True,
    False,
    "0.1",
    "none",
    None,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    10**5000,
    1e300,
    -0.1,
    [0.1],
    {},
]
IMPOSSIBLE = [
    *((name, value) for name in NUMBERS for value in NO_NUMBERS),
    *((name, value) for name in ("optimizer", "schedule") for value in ("", "Adam", 3, True, None, ["adamw"])),
    ("label_smoothing", 1),
    ("flip_probability", 1.5),
    ("crop_padding", 0.5),
    ("randaugment_magnitude", 11),
    ("erasing_probability", 2),
]


@pytest.mark.parametrize(
    ("name", "value"), IMPOSSIBLE, ids=lambda value: repr(value)[:20] if value != 10**5000 else "huge"
)
def test_an_impossible_value_is_named_with_what_is_possible(
    name: str, value: object, make_dataset: Callable[..., DatasetInfo]
) -> None:
    space = SearchSpace("own", "", "", lambda trial, dataset: {"width": 3, name: value}, lambda *_: None)  # type: ignore[dict-item]
    with pytest.raises(UsageError, match=rf": {name} = .* is not possible\. Possible: ") as caught:
        sample_params(space, RandomSuggest(0), make_dataset())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"learning_rate": 1, "weight_decay": 0, "label_smoothing": 0.0},
        {"learning_rate": 0.0, "optimizer": "lion", "schedule": "one_cycle"},
        {"flip_probability": "auto", "crop_padding": "auto", "mixup_alpha": 0.2, "cutmix_alpha": 1},
        {"randaugment_magnitude": 10, "erasing_probability": 1.0, "width": -3, "learning": True},
    ],
)
def test_possible_values_and_those_of_the_model_pass(params: dict[str, object]) -> None:
    check_training_values(params, "own")


def test_the_message_says_the_range() -> None:
    with pytest.raises(UsageError) as caught:
        check_training_values({"label_smoothing": 2.0}, "own.py")
    assert str(caught.value) == "own.py: label_smoothing = 2.0 is not possible. Possible: a number >= 0 and < 1."


@pytest.mark.parametrize("value", [2**63, -(2**70), "a\0b", "\ud800"], ids=["large", "low", "zero byte", "half a pair"])
def test_a_value_that_no_storage_can_keep_is_refused(value: object, make_dataset: Callable[..., DatasetInfo]) -> None:
    space = SearchSpace("own", "", "", lambda trial, dataset: {"x": value}, lambda *_: None)  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="sample returned 'x'"):
        sample_params(space, RandomSuggest(0), make_dataset())
