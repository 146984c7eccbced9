"""The models that the built-in search spaces build: valid for every draw and size, and rebuildable from text alone."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, load_space, read_spaces, sample_params

pytestmark = pytest.mark.slow

NAMES = ["cnn", "inception", "resnet"]
SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (96, 96, 3), (5, 7, 3), (1, 1, 2)]
SMALLEST = {"stages": 2, "blocks": 1, "convolutions": 1, "modules": 1, "width": 32}


def space_named(name: str) -> SearchSpace:
    return read_spaces([name], Path("nowhere"))[0]


def images_of(shape: tuple[int, int, int], count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def accuracy_after_training(model: keras.Model) -> float:
    """Return the accuracy on images whose upper half is brighter in class 1, after 16 steps."""
    images, classes = images_of((8, 8, 1), 128), (np.arange(128) % 2)[:, None]
    images[:, :4] += 2 * classes[:, :, None, None]
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(images, classes, batch_size=32, epochs=4, verbose=0)
    return float(model.evaluate(images, classes, verbose=0)[1])


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_draw_builds_a_model_from_images_to_finite_logits(name, shape, make_dataset):
    space, dataset = space_named(name), make_dataset(input_shape=shape, classes=7)
    for seed in range(3):
        model = space.build(sample_params(space, RandomSuggest(seed), dataset), dataset)
        logits = np.asarray(model(images_of(shape)))
        assert logits.shape == (2, 7)
        assert np.isfinite(logits).all()
        keras.backend.clear_session()


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_a_mixed_policy_gives_float32_logits_near_those_of_float32(
    name, normalization, precision, policy, make_dataset
):
    space, dataset = space_named(name), make_dataset()
    params = {**sample_params(space, RandomSuggest(3), dataset), **SMALLEST}
    params |= {"normalization": normalization, "groups": 4}
    full = space.build(params, dataset)
    policy(precision)
    mixed = space.build(params, dataset)
    mixed.set_weights(full.get_weights())
    expected, got = np.asarray(full(images_of((8, 8, 1)))), np.asarray(mixed(images_of((8, 8, 1))))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuilt_model_loads_the_weights_and_gives_the_same_output(name, tmp_path, make_dataset):
    space, dataset = space_named(name), make_dataset()
    params = sample_params(space, RandomSuggest(5), dataset)
    model, rebuilt = space.build(params, dataset), space.build(params, dataset)
    model.save_weights(tmp_path / "model.weights.h5")
    rebuilt.load_weights(tmp_path / "model.weights.h5")
    assert [v.path for v in model.weights] == [v.path for v in rebuilt.weights]
    np.testing.assert_array_equal(model(images_of((8, 8, 1))), rebuilt(images_of((8, 8, 1))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_a_model_survives_keras_own_file(name, activation, tmp_path, make_dataset):
    space, dataset = space_named(name), make_dataset()
    params = {**sample_params(space, RandomSuggest(0), dataset), **SMALLEST, "activation": activation}
    model = space.build(params, dataset)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(images_of((8, 8, 1))), loaded(images_of((8, 8, 1))))


@pytest.mark.parametrize("name", NAMES)
def test_no_layer_of_a_model_changes_the_images_at_random(name, make_dataset):
    dataset = make_dataset()
    space = space_named(name)
    params = {**sample_params(space, RandomSuggest(1), dataset), "dropout": 0.0, "stage_dropout": 0.0}
    params |= {"normalization": "group", "groups": 4}  # group normalisation is the same in training
    model, images = space.build(params, dataset), images_of((8, 8, 1))
    np.testing.assert_allclose(model(images, training=True), model(images, training=False), atol=1e-5)


def test_a_model_is_built_from_its_text_alone_without_this_package(tmp_path, make_dataset):
    space, dataset = space_named("resnet"), make_dataset()
    params = sample_params(space, RandomSuggest(0), dataset)
    code = """
import json, sys, types
text, params = json.load(sys.stdin)
sys.modules["mloptimizer"] = None  # any import of it fails
names = {"__name__": "space"}
exec(text, names)
print(names["build"](params, types.SimpleNamespace(input_shape=(8, 8, 1), classes=7)).output_shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([space.source, params]),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "(None, 7)", done.stderr


def test_tensorflow_converts_a_branch_of_a_space_that_has_no_file(make_dataset):
    text = """
def sample(trial, dataset): return {}
def build(params, dataset):
    import keras
    import tensorflow as tf

    @tf.function
    def flip(x):
        if tf.reduce_sum(x) > 0:
            x = -x
        return x

    images = keras.Input(dataset.input_shape)
    return keras.Model(images, keras.layers.Lambda(flip, output_shape=dataset.input_shape)(images))
"""
    model = load_space("own", text, "/nowhere/own.py").build({}, make_dataset(input_shape=(1, 1, 1)))
    assert np.asarray(model(np.full((1, 1, 1, 1), 3.0))).item() == -3.0


def test_the_example_of_the_documentation_is_a_space_that_learns(make_dataset):
    text = (Path(__file__).parents[2] / "docs" / "search-spaces.md").read_text(encoding="utf-8")
    space, dataset = load_space("mlp", text.partition("```python\n")[2].partition("```")[0], "mlp.py"), make_dataset()
    assert space.summary.startswith("Fully connected networks")
    for seed in range(5):
        model = space.build(sample_params(space, RandomSuggest(seed), dataset), dataset)
        assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))
    params = {**sample_params(space, RandomSuggest(0), dataset), "dropout": 0.0}
    assert accuracy_after_training(space.build(params, dataset)) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_model_learns_what_separates_two_classes(name, make_dataset):
    keras.utils.set_random_seed(0)
    space, dataset = space_named(name), make_dataset(classes=2)
    params = {**sample_params(space, RandomSuggest(0), dataset), **SMALLEST}
    params |= {"normalization": "batch", "dropout": 0.0, "stage_dropout": 0.0}
    assert accuracy_after_training(space.build(params, dataset)) > 0.9
