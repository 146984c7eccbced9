"""What a space's code does in `build` does not change how its model is trained; what `sample` returns is all used."""

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mloptimizer.core.events import Decision
from mloptimizer.core.nouns import FailureKind, Phase
from mloptimizer.training.network import build_network

SPACE = """
def sample(trial, dataset):
    return {{"lr": 1, "units": 8}}


def build(params, dataset):
    import os, signal, warnings
    import keras
    import numpy as np
    import tensorflow as tf
    {body}
    images = keras.Input(dataset.input_shape)
    model = keras.Model(images, keras.layers.Dense(dataset.classes)(keras.layers.Flatten()(images)))
    {after}
    return model
"""
PARAMS = {"learning_rate": 0.03, "optimizer": "sgd", "schedule": "plateau", "label_smoothing": 0.1}
CHANGES = [
    "keras.config.set_dtype_policy('mixed_bfloat16')",
    "keras.config.set_floatx('float16')",
    "keras.config.set_epsilon(0.1)",
    "keras.config.set_image_data_format('channels_first')",
    "tf.config.run_functions_eagerly(True)",
    "tf.config.experimental.enable_tensor_float_32_execution(False)",
    "np.seterr(all='raise')",
    "os.chdir('/')",
    "os.environ['TF_XLA_FLAGS'] = 'none'",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
]


def source(body: str = "pass", after: str = "pass") -> str:
    return SPACE.format(body=body, after=after)


def look() -> dict[str, Any]:
    return {
        "policy": keras.config.dtype_policy().name,
        "float": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "format": keras.config.image_data_format(),
        "eager": tf.config.functions_run_eagerly(),
        "tensor float": tf.config.experimental.tensor_float_32_execution_enabled(),
        "errors": np.geterr(),
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "handler": signal.getsignal(signal.SIGTERM),
    }


@pytest.mark.parametrize("change", CHANGES)
def test_changes_by_build_are_undone(change: str, make_training_plan: Any) -> None:
    before, plan = look(), make_training_plan()
    build_network("own", source(after=change), {}, plan.dataset)
    assert look() == before


@pytest.mark.parametrize(
    "change",
    [
        "params.pop('learning_rate'); params.update(optimizer='lion'); params.clear()",
        "object.__setattr__(dataset, 'mean', (0.0,)); object.__setattr__(dataset, 'train_size', 8)",
        "keras.utils.set_random_seed(3)",
    ],
)
@pytest.mark.slow
def test_what_build_does_to_its_arguments_changes_nothing(change: str, make_training_plan: Any, completed: Any) -> None:
    curves = []
    for after in ("pass", change):
        plan = make_training_plan(params=dict(PARAMS), space_source=source(after=after))
        done = completed(plan)
        curves.append([(epoch.metrics["learning_rate"], epoch.metrics["loss"]) for epoch in done.epochs])
        assert dict(plan.params) == PARAMS
    assert curves[0] == curves[1]
    assert curves[0][0][0] > 0.01


@pytest.mark.parametrize("body", ["raise SystemExit('needs a GPU')", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_a_build_that_ends_the_program_is_the_spaces_fault(body: str, make_training_plan: Any, run: Any) -> None:
    failure = run(make_training_plan(space_source=source(body))).result.failure
    assert failure.kind is FailureKind.SPACE_ERROR
    assert failure.message.startswith("search space 'tiny': build raised ") and body.split()[1][:9] in failure.message


def test_a_space_whose_text_ends_the_program_is_the_spaces_fault(make_training_plan: Any, run: Any) -> None:
    failure = run(make_training_plan(space_source="raise KeyboardInterrupt")).result.failure
    assert failure.kind is FailureKind.SPACE_ERROR


def test_a_value_with_another_name_than_the_trainings_is_refused(make_training_plan: Any, run: Any) -> None:
    plan = make_training_plan(params={"lr": 0.1, "units": 8}, space_source=source())
    failure = run(plan).result.failure
    assert failure.kind is FailureKind.SPACE_ERROR
    assert failure.message == (
        "search space 'tiny': nothing uses 'lr', which sample returned. Did you mean 'learning_rate'?"
    )


def test_a_compiled_model_is_refused(make_training_plan: Any, run: Any) -> None:
    failure = run(make_training_plan(space_source=source(after="model.compile('adam', 'mse')"))).result.failure
    assert failure.kind is FailureKind.SPACE_ERROR
    assert "build compiled its model" in failure.message


def test_models_that_an_earlier_version_explored_are_still_trained_further(
    make_training_plan: Any, completed: Any
) -> None:
    compiled = source(after="model.compile('adam', 'mse')")
    plan = make_training_plan(params={"lr": 0.1}, space_source=compiled, phase=Phase.HALL_OF_FAME, epochs=1)
    completed(plan)


@pytest.mark.slow
def test_other_values_that_nothing_reads_are_reported(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan(params={"units": 8, "optimizer": "sgd"}, space_source=source(), epochs=1))
    assert done.decision("unused values").choice == "units"
    done = completed(make_training_plan(params={"units": 8}, space_source=source("params['units']"), epochs=1))
    assert not [event for event in done.events if isinstance(event, Decision) and event.topic == "unused values"]
