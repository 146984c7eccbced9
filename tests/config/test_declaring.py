"""Every setting says what it belongs to, and every list of settings elsewhere follows from that."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import mloptimizer
from mloptimizer.config.declaring import BELONGS_TO
from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import settings_by_group
from mloptimizer.spaces.augmented import suggest_augmentation
from mloptimizer.spaces.space_files import RandomSuggest
from mloptimizer.tuning.plans import identify_tuning
from mloptimizer.tuning.tune import FACTORS
from tests.pretended_machine import Pretence

TRAINING = Path(mloptimizer.__file__).parent / "training"
VALUES = ("on", "off", "search", "float32", "sqrt", "step", "norm", "disk", "random", True, 2, 3, 0.25, 70.0, "text")


def another(name: str) -> Settings:
    """Return the settings with another possible value of this one."""
    for value in VALUES:
        try:
            changed = Settings.model_validate({name: value})
        except ValidationError:
            continue
        if getattr(changed, name) != getattr(Settings(), name):
            return changed
    raise AssertionError(f"no other value of {name} is known here")


def read_in_training() -> Iterator[str]:
    """Yield the settings that code below training/ reads as an attribute of ``settings``."""
    for path in TRAINING.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in Settings.model_fields:
                owner = node.value
                if getattr(owner, "attr", getattr(owner, "id", "")) in ("settings", "_settings"):
                    yield node.attr


def test_every_setting_declares_its_group_and_what_it_belongs_to() -> None:
    for name in Settings.model_fields:
        declared = Settings.declared(name)
        assert declared["belongs_to"] in BELONGS_TO, name
        assert declared["group"], name
    assert sorted(Settings.names(*BELONGS_TO)) == sorted(Settings.model_fields)
    assert [name for names in settings_by_group().values() for name in names] == list(Settings.model_fields)


def test_a_setting_that_declares_nothing_is_noticed() -> None:
    class More(Settings):
        new: int = 0

    with pytest.raises(KeyError):
        More.names("training")


def test_settings_that_a_training_reads_belong_to_identity_training_or_speed() -> None:
    read = set(read_in_training())
    assert {"precision", "batch_size", "monitor_seconds", "top_k"} <= read, "the code is read"
    assert read - set(Settings.names("identity", "training", "speed")) == set()


@pytest.mark.parametrize("name", Settings.names("training", "speed"))
def test_a_tuned_plan_depends_on_every_setting_that_changes_a_training(name: str, make_dataset: Any) -> None:
    machine, dataset = Pretence().machine(), make_dataset()
    assert identify_tuning(machine, dataset, another(name)) != identify_tuning(machine, dataset, Settings())


@pytest.mark.parametrize("name", ["max_hours", "trials", "sampler", "exploration_epochs", "storage"])
def test_a_tuned_plan_serves_any_run(name: str, make_dataset: Any) -> None:
    machine, dataset = Pretence().machine(), make_dataset()
    assert identify_tuning(machine, dataset, another(name)) == identify_tuning(machine, dataset, Settings())


def test_settings_that_tuning_or_augmentation_varies_belong_to_the_training(make_dataset: Any) -> None:
    assert set(FACTORS) <= set(Settings.names("training", "speed"))
    strengths = set(Settings.names("training", group="Augmentation")) - {"augmentation"}
    assert set(suggest_augmentation(RandomSuggest(0), make_dataset(input_shape=(32, 32, 3)))) == strengths


def test_of_a_studys_identity_profiles_change_only_the_seed() -> None:
    changed = {name for row in PROFILES.values() for name in row}
    assert changed & set(Settings.names("identity")) == {"seed"}
