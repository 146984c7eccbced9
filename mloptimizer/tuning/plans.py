"""Stores what tuning found in the workspace, and uses it for settings that are left to ``auto``.

A plan is valid only for the same machine, library versions, data shape and stated settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mloptimizer.config.conflicts import find_conflict
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.events import Decision
from mloptimizer.core.files import read_json, write_json
from mloptimizer.core.nouns import DatasetInfo, to_json
from mloptimizer.core.versions import installed_version
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.measurement import Machine


@dataclass(frozen=True)
class TuningPlan:
    """What tuning found, as stored in JSON."""

    identity: Mapping[str, Any]  # of machine, libraries, data and settings
    model: str  # what was measured
    decisions: Mapping[str, str | int]  # setting: value, of those that were left to auto
    speed_up: float  # over the starting point, both measured again in turn
    images: int  # of an exploration trial, over which the cost of compiling is spread
    rows: tuple[Mapping[str, Any], ...]  # the measurements, each with its finding
    tuned_utc: str


def identify_tuning(machine: Machine, dataset: DatasetInfo, settings: Settings) -> dict[str, Any]:
    """Return what a plan is valid for: a plan is reused only for an equal identity."""
    return {
        "gpus": [gpu.name for gpu in machine.gpus],
        "cpu": machine.cpu,
        "cores": machine.cores,
        "tensorflow": installed_version("tensorflow"),
        "keras": installed_version("keras"),
        "input_shape": list(dataset.input_shape),
        "classes": dataset.classes,
        "training settings": {
            name: getattr(settings, name)
            for name in Settings.names("training", "speed")
            if getattr(settings, name) != Settings.model_fields[name].default
        },
    }


def find_plan(workspace: Workspace, identity: Mapping[str, Any], model: str | None = None) -> TuningPlan | None:
    """Return the newest plan of the workspace for this identity, and for this model if one is named.

    Raises:
        UsageError: the plans file is damaged.
    """
    plans = [plan for plan in _read_plans(workspace) if plan.identity == identity and model in (None, plan.model)]
    return max(plans, key=lambda plan: plan.tuned_utc, default=None)


def keep_plan(workspace: Workspace, plan: TuningPlan) -> None:
    """Store the plan in the workspace; it replaces an earlier one for the same identity and model."""
    others = [other for other in _read_plans(workspace) if (other.identity, other.model) != (plan.identity, plan.model)]
    write_json(workspace.tuning_file, {"plans": [to_json(kept) for kept in (*others, plan)]})


def _read_plans(workspace: Workspace) -> list[TuningPlan]:
    if not (path := workspace.tuning_file).is_file():
        return []
    try:
        return TypeAdapter(list[TuningPlan]).validate_python(read_json(path).get("plans"))
    except ValidationError as error:
        raise UsageError(f"{path}: is not what `mloptimizer tune` writes. Restore it or remove it.") from error


def tuned_settings(settings: Settings, plan: TuningPlan) -> tuple[Settings, list[Decision]]:
    """Return the settings with the plan's values where they are ``auto``, and a decision for each."""
    day = plan.tuned_utc.partition("T")[0]
    gain = f"{plan.speed_up:.2f} times the images per second of" if plan.speed_up > 1 else "nothing was faster than"
    return fill_in(settings, plan.decisions, f"measured on {day}: {gain} the simplest settings")


def fill_in(settings: Settings, values: Mapping[str, object], reason: str) -> tuple[Settings, list[Decision]]:
    """Return the settings with the values of those left to ``auto``, all or none, and a decision for each."""
    fresh = {name: value for name, value in values.items() if getattr(settings, name) == "auto"}
    if conflict := find_conflict(settings.model_copy(update=fresh)):
        return settings, [Decision(None, "tuned plan", "left out", conflict)]
    return with_values(settings, fresh), [Decision(None, name, str(value), reason) for name, value in fresh.items()]


def with_values(settings: Settings, values: Mapping[str, object]) -> Settings:
    """Return the settings with these values, which must not conflict."""
    return Settings.model_validate({**settings.model_dump(), **values})


def find_tuned(before: Settings, after: Settings) -> dict[str, object]:
    """Return the values of the settings that tuning filled in, by name."""
    values = after.model_dump(mode="json")
    return {name: value for name, value in values.items() if getattr(before, name) != getattr(after, name)}
