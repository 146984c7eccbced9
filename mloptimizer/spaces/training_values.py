"""The table of the values that a search space may choose for training, and of what each may be.

A missing value takes the default of the training, or of the setting of the same name.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mloptimizer.config.settings import Settings
from mloptimizer.config.values import describe_choices, show_value
from mloptimizer.core.errors import UsageError

_OF_SETTINGS = ("schedule", *(name for name in Settings.names(group="Augmentation") if name != "augmentation"))
_LARGEST_RATE = 1000  # far above any useful rate, and far below the limit of float32


class _OfTheOptimizer(BaseModel):
    # Strict: neither True nor a string of digits is a number.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    optimizer: Literal["adamw", "sgd", "lion"] = "adamw"
    learning_rate: Annotated[float, Field(ge=0, le=_LARGEST_RATE)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=_LARGEST_RATE)] = 2e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


_fields: dict[str, Any] = {name: (field.annotation, field) for name, field in Settings.model_fields.items()}
_Values: type[BaseModel] = create_model(
    "TrainingValues", __base__=_OfTheOptimizer, **{name: _fields[name] for name in _OF_SETTINGS}
)

TRAINING_VALUES = tuple(_Values.model_fields)


def check_training_values(params: Mapping[Any, object], place: str) -> None:
    """Raise UsageError if one of the training values among `params` is not possible."""
    try:
        _Values.model_validate({name: params[name] for name in TRAINING_VALUES if name in params})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        possible = describe_choices(name, _Values)
        raise UsageError(
            f"{place}: {name} = {show_value(params[name])} is not possible. Possible: {possible}."
        ) from error
