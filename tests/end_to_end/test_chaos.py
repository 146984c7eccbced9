"""A search whose processes are killed all the time loses nothing; the long run is benchmarks/chaos.py."""

from pathlib import Path

from benchmarks.chaos import STUDY, ListedVictims, find_losses, run_through_chaos, search_words
from tests.shell import write_small_space


def test_a_search_whose_processes_are_killed_loses_nothing(tmp_path: Path) -> None:
    write_small_space(tmp_path)
    words = [*search_words(trials=4, epochs=20), "--space", "small", "--set", "train_limit=400"]
    victims = ListedVictims(tmp_path, ["trial", "driver", "fork server", "trial", "driver"])
    chaos = run_through_chaos(tmp_path, words, victims, limit_seconds=300)
    assert victims.left == []
    assert (find_losses(tmp_path, 4)[0], chaos.orphans) == ([], [])
    assert (tmp_path / "metrics_data" / STUDY / "test_evaluation.json").is_file()
