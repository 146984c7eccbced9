"""What a search loses when its processes are killed all the time: a real search, and SIGKILL every few seconds.

    python benchmarks/chaos.py [--trials 60] [--epochs 4] [--seconds 2 6] [--seed 0] [--compare]

The victim is drawn among the driver, the fork server and the trial processes; a dead driver is started again with
`mloptimizer resume`. In the end everything is checked: every trial ended and is recorded exactly once, no epoch is
missing or stands twice, a trial never went back by more than one epoch, the best value is that of the best recorded
epoch, and no process or file is left over. `--compare` runs the same search unbroken as well, first.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

STUDY = "chaos"
ORPHAN_SECONDS = 5.0  # within which what a killed driver leaves behind has to end
PHASES = ("trial", "hall_of_fame")


@dataclass
class Chaos:
    """What was done to a search, and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    seconds: float = 0.0
    orphans: list[str] = field(default_factory=list)


def begin(workspace: Path, words: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start the driver; it prints to the log."""
    command = [sys.executable, "-m", "mloptimizer", *words, "--workspace", str(workspace)]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def run_through_chaos(
    workspace: Path, words: Sequence[str], pauses: tuple[float, float], seed: int, limit_seconds: float = 3600.0
) -> Chaos:
    """Run the search to its end, while one of its processes is killed after each pause, drawn between the two."""
    chaos, draws, log = Chaos(), random.Random(seed), workspace / "printed.txt"
    begun, deadline = time.perf_counter(), time.perf_counter() + limit_seconds
    driver = begin(workspace, ["search", "--study", STUDY, *words], log)
    chaos.starts = 1
    while True:
        try:
            code = driver.wait(draws.uniform(*pauses))
        except subprocess.TimeoutExpired:
            if time.perf_counter() > deadline:
                driver.kill()
                raise SystemExit(f"chaos: the search has not ended after {limit_seconds:.0f} s") from None
            _kill_one(driver, chaos, draws)
            continue
        if code == 0:
            break
        if code != -9:
            raise SystemExit(f"chaos: the driver ended with {code}: {log.read_text()[-2000:]}")
        started = (workspace / "metrics_data" / STUDY / "study.json").is_file()
        again = ["resume", STUDY] if started else ["search", "--study", STUDY, *words]
        driver = begin(workspace, again, log)
        chaos.starts += 1
    chaos.seconds = time.perf_counter() - begun
    return chaos


def _kill_one(driver: "subprocess.Popen[bytes]", chaos: Chaos, draws: random.Random) -> None:
    try:
        tree = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    kinds: dict[str, list[psutil.Process]] = {"driver": [psutil.Process(driver.pid)]}
    for process in tree:
        kinds.setdefault(_kind(process, driver.pid), []).append(process)
    kinds.pop("", None)
    kind = draws.choice(sorted(kinds))
    victim = draws.choice(sorted(kinds[kind], key=lambda process: process.pid))
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return
    chaos.kills[kind] += 1
    if kind == "driver":
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


def find_losses(workspace: Path, trials: int) -> tuple[list[str], int]:
    """Return what is wrong with the records, in lines, and how many epochs were trained again."""
    folder, wrong, lost = workspace / "metrics_data" / STUDY, [], 0
    ended = [path for path in folder.glob("trial_*") if (path / "result.json").is_file()]
    if len(ended) != trials:
        wrong.append(f"{len(ended)} trials have a result, not {trials}")
    for path in sorted(folder.glob("trial_*")) + sorted(folder.glob("hall_of_fame_*")):
        if not (path / "result.json").is_file():
            wrong.append(f"{path.name}: has no result")
            continue
        wrong += [f"{path.name}: {what}" for what in _check_training(path)]
        went_back = _lost_epochs(path)
        lost += sum(went_back)
        if max(went_back, default=0) > 1:
            wrong.append(f"{path.name}: went back by {max(went_back)} epochs")
    wrong += _check_study(workspace, ended)
    temporary = [path for path in workspace.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    wrong += [f"left over: {path}" for path in [*temporary, *folder.glob("*/checkpoints")]]
    return wrong, lost


def _check_training(path: Path) -> list[str]:
    epochs = (
        [json.loads(line) for line in (path / "epochs.jsonl").read_text().splitlines()] if _has_epochs(path) else []
    )
    result = json.loads((path / "result.json").read_text())
    numbers, wrong = [epoch["epoch"] for epoch in epochs], []
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"its epochs are {numbers}")
    values = [epoch["val_accuracy"] for epoch in epochs if epoch["val_accuracy"] is not None]
    if result["outcome"] == "completed" and not path.name.startswith("hall") and result["value"] != max(values):
        wrong.append(f"its value is {result['value']}, its best epoch {max(values)}")
    return wrong


def _has_epochs(path: Path) -> bool:
    return (path / "epochs.jsonl").is_file()


def _lost_epochs(path: Path) -> list[int]:
    """Return by how many epochs each attempt went back, as the attempts and the driver's log of choices tell it."""
    attempts = path / "attempts.jsonl"
    if not attempts.is_file():
        return []
    made = [json.loads(line)["epochs"] for line in attempts.read_text().splitlines()]
    number = int(path.name.rpartition("_")[2])
    phase = path.name.rpartition("_")[0]
    taken = _resumed_epochs(path.parents[2] / "debug_strategy.log", number, phase)
    return [max(before - after, 0) for before, after in zip(made, taken, strict=False)]


def _resumed_epochs(log: Path, number: int, phase: str) -> list[int]:
    raise NotImplementedError


def _check_study(workspace: Path, ended: Sequence[Path]) -> list[str]:
    """Hold the storage against the records: every trial ended once, with the value that its file has."""
    import optuna

    from mloptimizer.study.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage("", workspace / "metrics_data" / "studies.journal", read_only=True)
    stored = optuna.load_study(study_name=STUDY, storage=storage).trials
    known: Mapping[int, Any] = {trial.number: trial for trial in stored if "params" in trial.user_attrs}
    wrong = [
        f"trial {trial.number} is {trial.state.name} for ever" for trial in stored if not trial.state.is_finished()
    ]
    for path in ended:
        result = json.loads((path / "result.json").read_text())
        trial = known.get(result["number"])
        if trial is None:
            wrong.append(f"{path.name}: is unknown to the study")
        elif result["outcome"] == "completed" and trial.value != result["value"]:
            wrong.append(f"{path.name}: has {result['value']}, the study {trial.value}")
    return wrong
