"""Values that a space returns and nothing uses: which are refused, and what counts as reading one."""

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mloptimizer.spaces.unused_values import ReadParams, find_misnamed, list_unused

ALL: list[Callable[[Any], Any]] = [
    *(dict, list, str, json.dumps, copy.copy, copy.deepcopy),
    lambda params: {**params},
    lambda params: SimpleNamespace(**params),
    lambda params: params.copy(),
    lambda params: params.items(),
    lambda params: params | {},
    lambda params: {} | params,
    lambda params: params == {},
]
ONE: list[Callable[[Any], Any]] = [
    "{a}".format_map,
    lambda params: params["a"],
    lambda params: params.get("a"),
    lambda params: params.pop("a"),
    lambda params: "a" in params,
    lambda params: params.setdefault("a", 3),
]


@pytest.mark.parametrize("read", ALL)
def test_whoever_looks_at_all_values_has_read_them(read: Callable[[Any], Any]) -> None:
    params = ReadParams({"a": 1, "b": 2})
    read(params)
    assert list_unused(params) == []
    assert params == {"a": 1, "b": 2}


@pytest.mark.parametrize("read", ONE)
def test_a_value_is_read_by_its_name(read: Callable[[Any], Any]) -> None:
    params = ReadParams({"a": 1, "b": 2})
    read(params)
    assert list_unused(params) == ["b"]


def test_copies_are_plain_dicts() -> None:
    assert [type(made(ReadParams({"a": 1}))) for made in (copy.copy, copy.deepcopy, dict.copy)] == [dict] * 3


SOURCE = """
def sample(trial, dataset):
    return {"lr": 1, "batch_size": 2, "momentum": 3}

def build(params, dataset):
    return params["width"]
"""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "Did you mean 'learning_rate'?"),
        ("learningRate", "Did you mean 'learning_rate'?"),
        ("adam_lr", "Did you mean 'learning_rate'?"),
        ("learning_rate_init", "Did you mean 'learning_rate'?"),
        ("lerning_rate", "Did you mean 'learning_rate'?"),
        ("wd", "Did you mean 'weight_decay'?"),
        ("l2", "Did you mean 'weight_decay'?"),
        ("optimizer_name", "Did you mean 'optimizer'?"),
        ("mixup", "Did you mean 'mixup_alpha'?"),
        ("batch_size", "--set batch_size=VALUE"),
        ("batchsize", "--set batch_size=VALUE"),
        ("epochs", "--set exploration_epochs=VALUE"),
        ("momentum", "It may return optimizer, learning_rate"),
    ],
)
def test_what_was_meant_for_the_training_is_named(name: str, meant: str) -> None:
    words = find_misnamed(ReadParams({"width": 1, name: 2}), SOURCE)
    assert words.startswith(f"nothing uses '{name}', which sample returned") and meant in words


def test_all_of_them_are_named_at_once() -> None:
    params = ReadParams({"batch_size": 32, "lr": 0.1, "momentum": 0.9, "units": 3})
    words = find_misnamed(params, SOURCE)
    assert words.startswith("nothing uses 'batch_size', 'lr', 'momentum', which sample returned. ")
    assert "--set batch_size=VALUE. Did you mean 'learning_rate'?" in words


@pytest.mark.parametrize(
    "name", ["units_3", "kernel", "groups", "seed", "patch_size", "batch_norm", "rate", "learning_rate"]
)
def test_other_values_may_stay_unread(name: str) -> None:
    assert find_misnamed(ReadParams({name: 1}), SOURCE) == ""


def test_a_value_that_build_reads_under_a_condition_may_stay_unread() -> None:
    source = SOURCE.replace('return params["width"]', 'return params["lr"] if params["width"] else 0')
    assert find_misnamed(ReadParams({"lr": 1, "width": 0}), source) == ""


def test_another_name_beside_the_right_one_may_stay_unread() -> None:
    assert find_misnamed(ReadParams({"adam_lr": 0.1, "learning_rate": 0.1}), SOURCE) == ""
