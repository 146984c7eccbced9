"""A search whose processes are killed all the time loses nothing; the long run is benchmarks/chaos.py."""

from pathlib import Path

from benchmarks.chaos import STUDY, ListedVictims, find_losses, run_through_chaos, search_words

SMALL = '''"""A small perceptron: many short epochs, so that kills meet it everywhere."""


def sample(trial, dataset):
    return {"units": trial.suggest_int("units", 4, 64), "learning_rate": trial.suggest_float("rate", 1e-3, 1e-2)}


def build(params, dataset):
    import keras
    from keras import layers

    images = keras.Input(dataset.input_shape)
    hidden = layers.Dense(params["units"], activation="relu")(layers.Flatten()(images))
    return keras.Model(images, layers.Dense(dataset.classes)(layers.Dropout(0.2)(hidden)))
'''


def test_a_search_whose_processes_are_killed_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "search_spaces"
    folder.mkdir()
    (folder / "small.py").write_text(SMALL)
    words = [*search_words(trials=4, epochs=40), "--space", "small"]
    victims = ListedVictims(tmp_path, ["trial", "driver", "fork server", "trial", "driver"])
    chaos = run_through_chaos(tmp_path, words, victims, limit_seconds=300)
    assert victims.left == []
    assert (find_losses(tmp_path, 4)[0], chaos.orphans) == ([], [])
    assert (tmp_path / "metrics_data" / STUDY / "verdict.json").is_file()
