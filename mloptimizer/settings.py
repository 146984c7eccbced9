"""The one place where every setting has its default, its meaning and its possible values.

From here come `system_parameters.py`, the checks of ``--set NAME=VALUE`` and the table in the docs. A value is checked
when it is given, never when it is used.
"""

import json
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mloptimizer.errors import UsageError, unknown_name

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """All settings of a workspace; immutable plain data that travels to the workers with every plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # What is searched
    spaces: tuple[str, ...] = Field((), description="search spaces to choose from, separated by commas; empty: all")
    objective: Literal["val_accuracy", "val_top_k_accuracy", "val_loss"] = Field(
        "val_accuracy", description="figure on the validation split that ranks the trials; val_loss is minimised"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | Auto = Field(
        "auto", description="seed of the study; auto: drawn once and recorded. Repeatable with one worker"
    )
    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random"] = Field(
        "tpe", description="proposes the next model; gp needs the extra 'gp', cmaes the extra 'cmaes'"
    )
    sampler_group: bool = Field(
        False, description="tpe: model the parameters of each family apart; no better and slower in our measurements"
    )
    pruner: Literal["median", "hyperband", "asha", "percentile", "patient", "none"] = Field(
        "median", description="ends exploration trials that fall behind the others"
    )
    pruner_startup_trials: Annotated[int, Field(ge=0)] = Field(
        5, description="trials that must have ended before the median and percentile pruners act"
    )

    # The two phases
    trials: Count = Field(100, description="models to explore")
    exploration_epochs: Count = Field(8, description="epochs of an exploration trial")
    exploration_patience: Count = Field(2, description="epochs without a better value that end an exploration trial")
    hall_of_fame_size: Count = Field(
        6, description="best models trained on for long; never more than half of the completed trials"
    )
    hall_of_fame_epochs: Count = Field(100, description="epochs of a hall-of-fame training")
    hall_of_fame_patience: Count = Field(10, description="epochs without a better value that end such a training")
    warm_start_hall_of_fame: bool = Field(True, description="start from the exploration weights; off: from new ones")

    # Data
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of the training images kept for validation, stratified by class"
    )
    train_limit: Annotated[int, Field(ge=0)] = Field(
        0, description="use only so many images of the training set, validation included; 0: all"
    )

    # Training
    batch_size: Count = Field(64, description="images per GPU and step, before the multiplier")
    batch_size_multiplier: Count | Auto = Field("auto", description="auto: 2 with several GPUs per trial, otherwise 1")
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(
        3.0, description="epochs in which the learning rate rises linearly, at most a third of the epochs"
    )
    global_clipnorm: Annotated[float, Field(ge=0)] = Field(
        1.0, description="largest global norm of the gradients, after the sum over the replicas; 0: no clipping"
    )
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "auto", description="auto: mixed_float16 on GPUs with tensor cores, otherwise float32"
    )
    xla: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the training step; auto: on GPUs where the steps to come pay for it"
    )
    top_k: Count = Field(5, description="k of the top-k accuracy, lowered to stay below the number of classes")

    # Machine
    workers: Count | Auto = Field(
        "auto", description="trials at a time; auto: as many as GPUs allow, without a GPU as cores and memory allow"
    )
    gpus_per_trial: Count | Auto = Field(
        "auto", description="auto: one while there are more trials than GPUs, all of them when there are fewer"
    )
    cpu_replicas: Count = Field(
        1, description="split the CPU into so many logical devices under MirroredStrategy; to try it without GPUs"
    )
    start_method: Literal["auto", "forkserver", "spawn"] = Field(
        "auto", description="how trial processes start; auto: forkserver, spawn where that fails"
    )
    monitor_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        1.0, description="seconds between two rows of the hardware log"
    )
    storage: str = Field(
        "", description="Optuna storage URL; empty: the journal metrics_data/studies.journal of this workspace"
    )

    @field_validator("spaces", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def describe_choices(name: str) -> str:
    """Return in words which values the setting takes, for instance ``'auto' or a whole number >= 1``."""
    return _in_words(Settings.model_json_schema()["properties"][name])


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(sorted((_in_words(part) for part in schema["anyOf"]), reverse=True))
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "const" in schema:
        return f"'{schema['const']}'"
    noun = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "names, a,b"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f"{noun.get(schema['type'], 'text')} {' and '.join(bounds)}".strip()


def make_settings(values: Mapping[str, object], place: str, base: Settings | None = None) -> Settings:
    """Return `base` (default: the defaults) with the values replaced.

    Args:
        values: by setting; texts are converted.
        place: where the values come from, for the error message.

    Raises:
        UsageError: an unknown name, with the nearest known one, or an impossible value, with what is possible.
    """
    for name in values:
        if name not in Settings.model_fields:
            raise unknown_name(place, "setting", name, Settings.model_fields)
    start = base.model_dump() if base else {}
    try:
        return Settings.model_validate({**start, **values})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        given = values.get(name)
        raise UsageError(f"{place}: {name} = {given!r} is not possible. Possible: {describe_choices(name)}.") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Return the names and values of ``NAME=VALUE`` words.

    Raises:
        UsageError: a word has no ``=``.
    """
    pairs = {}
    for word in assignments:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {word}: expected NAME=VALUE, for instance --set exploration_epochs=4.")
        pairs[name.strip()] = value.strip()
    return pairs


def read_settings_file(path: Path) -> Settings:
    """Return the settings that the workspace's `system_parameters.py` states; a missing file means the defaults.

    The file is the person's own Python; names that start with ``_``, modules and functions are not settings.

    Raises:
        UsageError: the file does not run, or states an unknown name or an impossible value.
    """
    if not path.is_file():
        return Settings()
    try:
        names = runpy.run_path(str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}. Correct it, or remove the file.") from error
    except Exception as error:  # the person's own code may raise anything
        raise UsageError(f"{path}: {type(error).__name__}: {error}. Correct it, or remove the file.") from error
    plain = (str, int, float, bool, tuple, list, type(None))
    values = {name: value for name, value in names.items() if not name.startswith("_") and isinstance(value, plain)}
    return make_settings(values, str(path))


def render_settings_file(settings: Settings | None = None) -> str:
    """Return the text of `system_parameters.py`: every setting with its meaning, its possible values and its value."""
    settings = settings or Settings()
    lines = [
        '"""The settings of this mloptimizer workspace; `--set NAME=VALUE` overrides one of them for one command.',
        "",
        "Remove a line to take the default. Written by `mloptimizer init`.",
        '"""',
    ]
    for name, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}", f"# Possible: {describe_choices(name)}"]
        lines.append(f"{name} = {_literal(getattr(settings, name))}")
    return "\n".join(lines) + "\n"


def render_settings_table() -> str:
    """Return the settings as the Markdown table of the docs."""
    rows = ["| setting | default | meaning | possible |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{name}` | `{_literal(field.default)}` | {field.description} | {describe_choices(name)} |")
    return "\n".join(rows) + "\n"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
