"""What a search loses when its processes keep getting killed: a real search, with a SIGKILL every few seconds.

    python benchmarks/chaos.py [--trials 60] [--epochs 4] [--seconds 2 6] [--seed 0] [--compare]

Each kill hits the driver, the fork server or a trial process at random; `mloptimizer resume` restarts a dead driver.
At the end the script checks everything: every trial ended and is recorded exactly once, no epoch is missing or
recorded twice, no trial went back by more than one epoch, each trial's value is that of its best recorded epoch, and
no process or file is left over. `--compare` first runs the same search without kills.
"""

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

STUDY = "chaos"
ORPHAN_SECONDS = 5.0  # the processes of a killed driver have to end within this time
LIMIT_SECONDS = 3600.0


@dataclass
class Chaos:
    """The kills in a search, and what came of them."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    seconds: float = 0.0
    orphans: list[str] = field(default_factory=list)


def begin(workspace: Path, words: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start the driver, with its output in the log."""
    command = [sys.executable, "-m", "mloptimizer", *words, "--workspace", str(workspace)]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def run_through_chaos(workspace: Path, words: Sequence[str], victims: "Victims", limit_seconds: float) -> Chaos:
    """Run the search to its end while killing the processes that `victims` names; restart a dead driver."""
    chaos, log = Chaos(), workspace / "printed.txt"
    begun = time.perf_counter()
    driver = begin(workspace, ["search", "--study", STUDY, *words], log)
    chaos.starts = 1
    while True:
        try:
            code = driver.wait(victims.pause())
        except subprocess.TimeoutExpired:
            if time.perf_counter() - begun > limit_seconds:
                driver.kill()
                raise SystemExit(f"chaos: the search has not ended after {limit_seconds:.0f} s") from None
            _kill_one(driver, chaos, victims)
            continue
        if code == 0:
            break
        if code != -signal.SIGKILL:
            raise SystemExit(f"chaos: the driver ended with {code}: {log.read_text()[-2000:]}")
        known = (workspace / "metrics_data" / STUDY / "study.json").is_file()
        driver = begin(workspace, ["resume", STUDY] if known else ["search", "--study", STUDY, *words], log)
        chaos.starts += 1
    chaos.seconds = time.perf_counter() - begun
    return chaos


class Victims(Protocol):
    """Says when to kill the next process, and which."""

    def pause(self) -> float:
        """Return how many seconds to wait before the next choice."""
        ...

    def choose(self, kinds: Sequence[str]) -> str | None:
        """Return one of the given kinds of processes, or None to wait."""
        ...


class RandomVictims:
    """Any process, after a random pause between two times."""

    def __init__(self, seconds: tuple[float, float], seed: int) -> None:
        self._seconds = seconds
        self._draws = random.Random(seed)

    def pause(self) -> float:
        return self._draws.uniform(*self._seconds)

    def choose(self, kinds: Sequence[str]) -> str | None:
        return self._draws.choice(kinds)


class ListedVictims:
    """The listed kinds in order, each after the search has recorded another epoch."""

    def __init__(self, workspace: Path, kinds: Sequence[str]) -> None:
        self.left = list(kinds)
        self._folder = workspace / "metrics_data" / STUDY
        self._epochs = 0

    def pause(self) -> float:
        return 0.05

    def choose(self, kinds: Sequence[str]) -> str | None:
        epochs = sum(_read(path).count("\n") for path in self._folder.glob("*/epochs.jsonl"))
        if epochs <= self._epochs or not self.left or self.left[0] not in kinds:
            return None
        self._epochs = epochs
        return self.left.pop(0)


def _kill_one(driver: "subprocess.Popen[bytes]", chaos: Chaos, victims: Victims) -> None:
    try:
        tree = psutil.Process(driver.pid).children(recursive=True)
        kinds: dict[str, list[psutil.Process]] = {"driver": [psutil.Process(driver.pid)]}
        for process in tree:
            if kind := _kind(process, driver.pid):
                kinds.setdefault(kind, []).append(process)
        chosen = victims.choose(sorted(kinds))
        if chosen is None:
            return
        kinds[chosen][-1].kill()
    except psutil.NoSuchProcess:
        return
    chaos.kills[chosen] += 1
    if chosen == "driver":
        driver.wait()
        _, alive = psutil.wait_procs(tree, timeout=ORPHAN_SECONDS)
        chaos.orphans += [f"{process.pid}: {_command(process)}" for process in alive]


def _kind(process: psutil.Process, driver: int) -> str:
    command = _command(process)
    if "resource_tracker" in command or "forkserver" not in command:
        return ""
    try:
        return "fork server" if process.ppid() == driver else "trial"
    except psutil.NoSuchProcess:
        return ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def find_losses(workspace: Path, trials: int) -> tuple[list[str], list[int]]:
    """Return what is wrong with the records, one line each, and the epochs that each return to a checkpoint cost."""
    folder, wrong = workspace / "metrics_data" / STUDY, []
    ended = [path for path in sorted(folder.glob("trial_*")) if (path / "result.json").is_file()]
    if len(ended) != trials:
        wrong.append(f"{len(ended)} trials have a result, not {trials}")
    for path in [*folder.glob("trial_*"), *folder.glob("hall_of_fame_*")]:
        if (path / "result.json").is_file():
            wrong += [f"{path.name}: {what}" for what in _check_training(path)]
        else:
            wrong.append(f"{path.name}: has no result")
    log = _read(workspace / "debug_strategy.log")
    lost = [int(count) for count in re.findall(r"epochs trained again: (\d+)", log)]
    wrong += [f"a trial went back by {count} epochs" for count in lost if count > 1]
    wrong += _check_study(workspace, ended)
    temporary = [path for path in workspace.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    wrong += [f"left over: {path}" for path in [*temporary, *folder.glob("*/checkpoints"), *folder.glob("orders/*")]]
    return wrong, lost


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _check_training(path: Path) -> list[str]:
    epochs = [json.loads(line) for line in _read(path / "epochs.jsonl").splitlines()]
    result = json.loads(_read(path / "result.json"))
    numbers, wrong = [epoch["epoch"] for epoch in epochs], []
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"its epochs are {numbers}")
    best = max((epoch["val_accuracy"] for epoch in epochs if epoch["val_accuracy"] is not None), default=None)
    explored = path.name.startswith("trial_")  # a long training may keep its first weights
    if explored and result["outcome"] == "completed" and result["value"] != best:
        wrong.append(f"its value is {result['value']}, but its best epoch has {best}")
    return wrong


def _check_study(workspace: Path, ended: Sequence[Path]) -> list[str]:
    """Compare the storage with the records: every trial ended once, with the value in its file."""
    import optuna

    from mloptimizer.study.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage("", workspace / "metrics_data" / "studies.journal", read_only=True)
    stored = optuna.load_study(study_name=STUDY, storage=storage).trials
    known: Mapping[int, Any] = {trial.number: trial for trial in stored if "params" in trial.user_attrs}
    wrong = [f"trial {trial.number} stays {trial.state.name}" for trial in stored if not trial.state.is_finished()]
    for path in ended:
        result = json.loads((path / "result.json").read_text())
        trial = known.get(result["number"])
        if trial is None:
            wrong.append(f"{path.name}: the study does not have it")
        elif result["outcome"] == "completed" and trial.value != result["value"]:
            wrong.append(f"{path.name}: has {result['value']}, the study {trial.value}")
    return wrong


def count_attempts(workspace: Path) -> Counter[str]:
    """Count the attempts that ended before their trial did, by kind."""
    files = (workspace / "metrics_data" / STUDY).glob("*/attempts.jsonl")
    return Counter(json.loads(line)["kind"] for path in files for line in path.read_text().splitlines())


def search_words(trials: int, epochs: int) -> list[str]:
    """Return the arguments of a search on digits in which every trial trains all its epochs."""
    settings = {
        "exploration_epochs": epochs,
        "exploration_patience": epochs,
        "pruner": "none",
        "hall_of_fame_size": 2,
        "hall_of_fame_epochs": epochs,
        "hall_of_fame_patience": epochs,
    }
    words = ["--dataset", "digits", "--trials", str(trials), "--seed", "1", "--workers", "2"]
    return words + [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seconds", type=float, nargs=2, default=(2.0, 6.0), help="shortest and longest pause")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="first run the search without kills")
    options = parser.parse_args()
    words, unbroken = search_words(options.trials, options.epochs), None
    if options.compare:
        with tempfile.TemporaryDirectory() as folder:
            unbroken = run_through_chaos(Path(folder), words, ListedVictims(Path(folder), []), LIMIT_SECONDS).seconds
    with tempfile.TemporaryDirectory() as folder:
        victims = RandomVictims(tuple(options.seconds), options.seed)
        chaos = run_through_chaos(Path(folder), words, victims, LIMIT_SECONDS)
        wrong, lost = find_losses(Path(folder), options.trials)
        attempts = count_attempts(Path(folder))
    print("| what | value |\n|---|--:|")
    print(f"| kills | {chaos.kills.total()}: {', '.join(f'{n} {kind}' for kind, n in chaos.kills.most_common())} |")
    print(f"| starts of the driver | {chaos.starts} |")
    cut_off = ", ".join(f"{n} {kind}" for kind, n in attempts.most_common())
    print(f"| attempts interrupted | {attempts.total()}: {cut_off} |")
    print(f"| epochs repeated | {sum(lost)}, at most {max(lost, default=0)} at a time |")
    print(f"| processes left over | {len(chaos.orphans)} |")
    print(f"| total time, s | {chaos.seconds:.0f} |")
    if unbroken:
        print(f"| without kills, s | {unbroken:.0f} |\n| ratio | {chaos.seconds / unbroken:.2f} |")
    for line in wrong + chaos.orphans:
        print(f"WRONG: {line}")
    raise SystemExit(1 if wrong or chaos.orphans else 0)


if __name__ == "__main__":
    main()
