"""An exported model needs neither mloptimizer nor the space."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mloptimizer.core.errors import RunError
from mloptimizer.data.library import load_split
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, read_spaces, sample_params
from mloptimizer.training.export.keras_export import export_model
from mloptimizer.training.export.openable import find_own_code
from mloptimizer.training.network import build_network, save_weights

pytestmark = pytest.mark.slow

ALONE = """
import json, sys
import keras, numpy as np
assert not any(name.startswith("mloptimizer") for name in sys.modules)
model = keras.models.load_model(sys.argv[1], safe_mode=True)
print(json.dumps(model.predict_on_batch(np.load(sys.argv[2])).tolist()))
"""


SPACE = """
import functools

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("mine")
class Scale(layers.Layer):
    def call(self, x):
        return 2 * x


class Own(keras.Model):
    pass


def twice(x):
    return 2 * x


def sample(trial, dataset):
    return {}


def build(params, dataset):
    images = keras.Input(dataset.input_shape)
    x = layers.Flatten()(images)
"""
OPENABLE = {
    "dict": "return keras.Model(images, {'logits': layers.Dense(10)(x)})",
    "list": "return keras.Model([images], [layers.Dense(10)(x)])",
    "own_class": "return Own(images, layers.Dense(10)(x))",
    "float16": "return keras.Model(images, layers.Dense(10, dtype='float16')(layers.Dense(99, dtype='float16')(x)))",
    "bfloat16": "return keras.Model(images, layers.Dense(10, dtype='mixed_bfloat16')(x))",
    "operations": "return keras.Model(images, ops.gelu(layers.Dense(10)(x))[:, ::-1] * 2)",
    "name": "return keras.Sequential([images, layers.Flatten(), layers.Dense(10)], name='probabilities')",
    "random": "return keras.Model(images, layers.Dense(10)(layers.Dropout(0.5)(x, training=True)))",
    "keras_function": "return keras.Model(images, layers.Dense(10)(layers.Lambda(ops.relu)(x)))",
}
NOT_OPENABLE = {
    "layer 'scale' is of the class Scale": "x = Scale()(x)",
    "layer 'inside' is of the class Scale": "x = keras.Sequential([layers.Dense(9), Scale(name='inside')])(x)",
    "layer 'halve' (Lambda) needs a Python lambda": "x = layers.Lambda(lambda t: t / 2, name='halve')(x)",
    "layer 'first' (Dense) needs the function 'twice'": "x = layers.Dense(9, activation=twice, name='first')(x)",
    "layer 'wave' (Activation) needs the function 'sin'": "x = layers.Activation(ops.sin, name='wave')(x)",
    "layer 'first' (Dense) needs a Python lambda": "x = layers.Dense(9, activation=lambda t: t, name='first')(x)",
    "layer 'odd' (Dense) has an argument": "x = layers.Dense(9, activation=functools.partial(twice), name='odd')(x)",
    "layer 'gelu' (Activation) has an activation": "x = layers.Activation(ops.gelu, name='gelu')(x)",
}


def export(plan: Any, weights: str, target: Path) -> Any:
    return export_model((plan.space, plan.space_source), plan.params, plan.dataset, Path(weights), target)


def test_keras_alone_opens_it_and_gives_probabilities_of_raw_pixels(
    make_training_plan: Any, completed: Any, tmp_path: Path
) -> None:
    plan = make_training_plan({"precision": "mixed_bfloat16"}, epochs=6, params={"learning_rate": 0.01})
    trained = completed(plan).result
    facts = export(plan, trained.weights, tmp_path / "model.keras")
    pixels, labels = load_split(plan.dataset, "validation")
    np.save(tmp_path / "pixels.npy", pixels)
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "model.keras"), str(tmp_path / "pixels.npy")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    probabilities = np.array(json.loads(answer.stdout.splitlines()[-1]))
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == labels) == pytest.approx(trained.value, abs=0.03)
    assert facts["max_abs_difference"] < 1e-5


def test_weights_of_another_model_are_refused_and_nothing_is_left(
    make_training_plan: Any, completed: Any, tmp_path: Path
) -> None:
    plan = make_training_plan(epochs=1)
    weights = completed(plan).result.weights
    plan_of_other = make_training_plan(space_source=plan.space_source.replace("Conv2D(8", "Conv2D(16"))
    with pytest.raises(RunError, match=r"the weights cannot be loaded \(.*Train the model again"):
        export(plan_of_other, weights, tmp_path / "out" / "model.keras")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("space", read_spaces([], Path("no-workspace")), ids=lambda space: space.name)
def test_every_built_in_space_can_be_exported(make_training_plan: Any, tmp_path: Path, space: SearchSpace) -> None:
    plan = make_training_plan()
    for seed in range(2):
        plan = replace(plan, space=space.name, space_source=space.source)
        plan = replace(plan, params=sample_params(space, RandomSuggest(seed), plan.dataset))
        network = build_network(plan.space, plan.space_source, plan.params, plan.dataset)
        save_weights(network, tmp_path / "model.weights.h5")
        facts = export(plan, str(tmp_path / "model.weights.h5"), tmp_path / "model.keras")
        assert facts["parameters"] == network.count_params()


def test_what_a_trial_accepts_opens_in_a_fresh_keras(make_training_plan: Any, tmp_path: Path) -> None:
    targets = []
    for name, body in OPENABLE.items():
        plan = make_training_plan(space_source=f"{SPACE}    {body}\n")
        save_weights(build_network(plan.space, plan.space_source, plan.params, plan.dataset), tmp_path / "w.weights.h5")
        export(plan, str(tmp_path / "w.weights.h5"), tmp_path / f"{name}.keras")
        targets.append(str(tmp_path / f"{name}.keras"))
    code = "import keras, sys; print(*[keras.models.load_model(path).output_shape for path in sys.argv[1:]])"
    command = [sys.executable, "-I", "-c", code, *targets]
    opened = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert opened.stdout.count("(None, 10)") == len(OPENABLE)


@pytest.mark.parametrize(("words", "body"), NOT_OPENABLE.items(), ids=str)
def test_a_layer_that_needs_the_spaces_code_is_named(
    make_training_plan: Any, tmp_path: Path, words: str, body: str
) -> None:
    source = f"{SPACE}    {body}\n    return keras.Model(images, layers.Dense(10)(x))\n"
    plan = make_training_plan(space_source=source)
    network = build_network(plan.space, plan.space_source, plan.params, plan.dataset)
    assert find_own_code(network).startswith(words)
    save_weights(network, tmp_path / "w.weights.h5")
    with pytest.raises(RunError, match="Keras alone could not open"):
        export(plan, str(tmp_path / "w.weights.h5"), tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


def test_the_first_trial_says_that_its_model_cannot_be_exported(make_training_plan: Any, completed: Any) -> None:
    body = "x = Scale()(x)\n    return keras.Model(images, layers.Dense(10)(x))"
    done = completed(make_training_plan(space_source=f"{SPACE}    {body}\n", epochs=1))
    assert "Scale" in done.decision("export").reason
