"""An exported model stands on its own."""

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
from mloptimizer.training.network import build_network, save_weights

pytestmark = pytest.mark.slow

ALONE = """
import json, sys
import keras, numpy as np
assert not any(name.startswith("mloptimizer") for name in sys.modules)
model = keras.models.load_model(sys.argv[1], safe_mode=True)
print(json.dumps(model.predict_on_batch(np.load(sys.argv[2])).tolist()))
"""


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
    command = [sys.executable, "-I", "-c", ALONE, facts["path"], str(tmp_path / "pixels.npy")]
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
