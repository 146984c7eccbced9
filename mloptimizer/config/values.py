"""Checks values given for settings, describes the possible ones, and fills in the values of a profile."""

import itertools
import reprlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError, unknown_name

OF_SPACES = ("optimizer", "learning_rate", "weight_decay", "label_smoothing")  # only a search space returns these
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 100  # characters


def describe_choices(name: str, model: type[BaseModel] = Settings) -> str:
    """Describe the values that the setting takes, for example ``'auto' or a whole number >= 1``."""
    return _in_words(_schemas(model)[name])


@cache
def _schemas(model: type[BaseModel]) -> Mapping[str, Any]:
    return model.model_json_schema()["properties"]  # takes 20 ms


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(sorted((part.get("title") or _in_words(part) for part in schema["anyOf"]), reverse=True))
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "const" in schema:
        return f"'{schema['const']}'"
    noun = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "names, a,b"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f"{noun.get(schema['type'], 'text')} {' and '.join(bounds)}".strip()


def settings_by_group() -> dict[str, list[str]]:
    """Return the names of the settings by group, in order."""
    groups = itertools.groupby(Settings.names(), lambda name: str(Settings.declared(name)["group"]))
    return {group: list(names) for group, names in groups}


def unknown_setting(place: str, name: str) -> UsageError:
    """Return the error for a name that is no setting; for a parameter of search spaces it says how to fix that."""
    if name.lower() in OF_SPACES:
        return UsageError(
            f"{place}: {name} is not a setting but a parameter that search spaces return. Possible: fix it in `sample` "
            "of search_spaces/NAME.py (`mloptimizer init DIR` writes such files), or try a value with --enqueue FILE."
        )
    return unknown_name(place, "setting", name, Settings.model_fields, listed_by="mloptimizer settings --all")


def make_settings(values: Mapping[str, object], place: str, base: Settings | None = None) -> Settings:
    """Return `base` (default: the defaults) with these values, and the profile's values for settings not stated.

    A setting that `base` has at its default does not count as stated: `mloptimizer init` writes a file of all settings.

    Args:
        values: by setting; texts are converted.
        place: where the values come from, for the error message.

    Raises:
        UsageError: an unknown name or an impossible value.
    """
    for name in values:
        if name not in Settings.model_fields:
            raise unknown_setting(place, name)
    defaults = Settings()
    merged = (base or defaults).model_dump()
    for name, value in PROFILES[merged["profile"]].items():  # the values may bring another profile
        if merged[name] == value:
            merged[name] = getattr(defaults, name)
    profile = PROFILES.get(str(values.get("profile", merged["profile"])), {})
    unstated = {name: value for name, value in profile.items() if merged[name] == getattr(defaults, name)}
    try:
        return Settings.model_validate({**merged, **unstated, **values})
    except ValidationError as error:
        problem = error.errors()[0]
        if not problem["loc"]:  # a conflict between settings
            raise UsageError(f"{place}: {problem['ctx']['error']}") from error
        name = str(problem["loc"][0])
        given = "…" if name == "storage" else show_value(values.get(name))  # a URL may hold a password
        raise UsageError(f"{place}: {name} = {given} is not possible. Possible: {describe_choices(name)}.") from error


def show_value(value: object) -> str:
    """Return the value as Python writes it, shortened."""
    try:
        return _shortened.repr(value)
    except ValueError:  # Python refuses to write thousands of digits
        return "a huge number"
