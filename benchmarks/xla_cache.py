"""Whether a model's second trial starts faster with XLA: one trial twice, in fresh processes, with one cache.

    python benchmarks/xla_cache.py [--pairs 3]

Prints the seconds of each trial's first step: tracing, compiling or reading the compiled program, and the step itself.
Each pair starts with an empty cache. The goal is that the second is at least 2 x as fast.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from searches import STUDY, timed_search

from mloptimizer.core.nouns import Phase
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace

SPACE = '''"""One residual network."""


def sample(trial, dataset):
    return {"learning_rate": trial.suggest_float("rate", 1e-4, 1e-2, log=True)}


def build(params, dataset):
    import keras
    from keras import layers

    images = keras.Input(dataset.input_shape)
    x = layers.Conv2D(16, 3, padding="same")(images)
    for number in range(6):
        y = layers.BatchNormalization(momentum=0.9)(x)
        y = layers.Conv2D(16, 3, padding="same", activation="gelu")(y)
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(dataset.classes, dtype="float32")(x))
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    print("| pair | first trial, s | second trial, s | ratio |\n|--:|--:|--:|--:|")
    ratios = []
    for number in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            first, second = _first_steps(Path(folder))
        ratios.append(first / second)
        print(f"| {number + 1} | {first:.2f} | {second:.2f} | {ratios[-1]:.2f} |")
    print(f"median ratio {statistics.median(ratios):.2f}")


def _first_steps(folder: Path) -> list[float]:
    """Return the seconds of the first step of two trials of one study, one after the other."""
    space = folder / "search_spaces" / "one.py"
    space.parent.mkdir()
    space.write_text(SPACE)
    settings = ("xla=on", "exploration_epochs=1", "pruner=none")
    words = [word for setting in settings for word in ("--set", setting)]
    timed_search(
        folder, "--dataset", "digits", "--space", "one", "--trials", "2", "--workers", "1", "--explore-only", *words
    )
    trials = MetricsStore(Workspace(folder), STUDY).trials(Phase.EXPLORATION)
    return [trial.result["timings"]["first_step"] for trial in trials]


if __name__ == "__main__":
    main()
