"""The one table of the values by which a search space has its models trained, and of what each may be.

A value that a space leaves out takes the training's default, or that of the setting of the same name.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mloptimizer.config.settings import Settings
from mloptimizer.config.values import describe_choices, show_value
from mloptimizer.core.errors import UsageError

_OF_SETTINGS = ("schedule", *(name for name in Settings.names(group="Augmentation") if name != "augmentation"))
_LARGEST_RATE = 1000  # far above what trains anything, and far below what float32 cannot hold


class _OfTheOptimizer(BaseModel):
    # Strict: True is no number, and neither is a text that could be read as one.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    optimizer: Literal["adamw", "sgd", "lion"] = "adamw"
    learning_rate: Annotated[float, Field(ge=0, le=_LARGEST_RATE)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=_LARGEST_RATE)] = 2e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


_fields: dict[str, Any] = {
    name: (Settings.model_fields[name].annotation, Settings.model_fields[name]) for name in _OF_SETTINGS
}
_Values: type[BaseModel] = create_model("TrainingValues", __base__=_OfTheOptimizer, **_fields)

TRAINING_VALUES = tuple(_Values.model_fields)


def check_training_values(params: Mapping[Any, object], place: str) -> None:
    """Check those of the values that are a training's.

    Raises:
        UsageError: one of them is not possible; says which, and what is.
    """
    try:
        _Values.model_validate({name: params[name] for name in TRAINING_VALUES if name in params})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        possible = describe_choices(name, _Values)
        raise UsageError(
            f"{place}: {name} = {show_value(params[name])} is not possible. Possible: {possible}."
        ) from error
