"""Runs whole searches on simulated workers: the real study, phase, loop and records, with virtual time.

    python -m benchmarks.simulate                                    # the table of docs/scale.md
    python -m benchmarks.simulate --quality --plot docs/quality.png  # what parallel trials cost in quality
    python -m benchmarks.simulate --workers 256 --trials 2000 --faults 0.05 --lives 3

The real time that the driver takes for its decisions and files counts in the virtual time. A slot is busy from the
start of its trial until its result is due. "Busy" is the busy share of all slots' time from the beginning to the last
start of a trial, including the first filling; "once full" counts from when every slot has had a trial. Decisions are
proposals, epochs and finished trials, per second of the driver's own time. Regret is that of the best completed trial,
without noise; 0 is the best possible.
"""

import argparse
import contextlib
import functools
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.landscapes import DATASET, FUNCTIONS, OBJECTIVE, SPACES, make_study, regret
from benchmarks.simulated_engine import Clock, SimulatedEngine, Workload
from mloptimizer.config.settings import Settings
from mloptimizer.core.events import EndedAttempt, EpochRecord
from mloptimizer.core.listener import Listener, Listeners
from mloptimizer.core.nouns import Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH
from mloptimizer.search.budgets import Budgets
from mloptimizer.search.control import Control
from mloptimizer.search.disk_watch import DiskWatch
from mloptimizer.search.gpu_sharing import GpuNeeds
from mloptimizer.search.job import Goal, Job
from mloptimizer.search.loop import Loop
from mloptimizer.search.phases import Exploration
from mloptimizer.search.search_run import SearchRun
from mloptimizer.store.activity import Activity
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.recorder import Recorder
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.study import open_study

STUDY = "s"
BOUNDED, UNBOUNDED, RANDOM = "bounded", "all trials", "random"
SAMPLERS: Mapping[str, Mapping[str, object]] = {
    BOUNDED: {},
    UNBOUNDED: {"sampler_history": 0},
    RANDOM: {"sampler": "random"},
}


@dataclass
class Story(Listener):
    """What happened in a search."""

    function: str
    regrets: list[float] = field(default_factory=list)  # of the best trial so far, after each finished trial
    decisions: int = 0
    attempts: int = 0
    driver_seconds: float = 0.0
    virtual_seconds: float = 0.0
    busy_share: float = 0.0
    filled_share: float = 0.0  # the same, from when every slot has had a trial
    most_duplicates: int = 0

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        self.decisions += 1

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        self.decisions += 1

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        self.attempts += 1

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        self.decisions += 1
        best = self.regrets[-1] if self.regrets else float("inf")
        done = result.outcome is Outcome.COMPLETED
        self.regrets.append(min(best, regret(self.function, plan.space, plan.params)) if done else best)


@dataclass(frozen=True)
class Scenario:
    """A search to simulate."""

    workers: int
    trials: int
    function: str = "ackley"
    seed: int = 0
    faults: float = 0.0  # share of attempts that fail
    lives: int = 1  # of the driver: it is interrupted and continued in between
    driver: str = "wall"  # how its time counts, see `Clock`; none: it also keeps the study in memory
    sampler: str = BOUNDED
    settings: Mapping[str, object] = field(default_factory=dict)


def simulate(scenario: Scenario) -> Story:
    """Run the search; return what happened."""
    clock, story = Clock(scenario.driver), Story(scenario.function)
    facts = {"trials": scenario.trials, "seed": scenario.seed, **SAMPLERS[scenario.sampler]}
    settings = Settings.model_validate({**facts, **scenario.settings})
    began, worked = clock(), clock.driver_seconds()
    spans, filled, last_start = list[tuple[float, float]](), began, began
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        for life in range(scenario.lives):
            engine = _live(scenario, workspace, settings, clock, story, is_last=life == scenario.lives - 1)
            spans, last_start = spans + engine.spans, engine.last_start
            filled = engine.filled_at if life == 0 else filled
            story.most_duplicates = max(story.most_duplicates, engine.most_duplicates)
    story.driver_seconds = clock.driver_seconds() - worked
    story.virtual_seconds = clock() - began
    story.busy_share = _busy_share(spans, began, last_start, scenario.workers)
    story.filled_share = _busy_share(spans, filled, last_start, scenario.workers)
    return story


def _busy_share(spans: list[tuple[float, float]], since: float, until: float, workers: int) -> float:
    busy = sum(max(min(end, until) - max(start, since), 0.0) for start, end in spans)
    return busy / (workers * (until - since)) if until > since else 1.0


def _live(
    scenario: Scenario, workspace: Workspace, settings: Settings, clock: Clock, story: Story, is_last: bool
) -> SimulatedEngine:
    if scenario.driver != "none":
        study = open_study("", workspace.journal, STUDY, settings, scenario.seed, OBJECTIVE)
    else:
        study = make_study(settings, scenario.seed)
    store = MetricsStore(workspace, STUDY)
    spaces = {space.name: space for space in SPACES}
    store.write_study({"settings": settings.model_dump(mode="json")}, dict.fromkeys(spaces, ""))
    job = Job(
        name=STUDY,
        study=study,
        spaces=spaces,
        dataset=DATASET,
        settings=settings,
        seed=scenario.seed,
        workspace=workspace,
        store=store,
        goal=Goal(settings.trials),
    )
    rows = 1.0 if scenario.driver != "none" else 0.0
    work = Workload(lambda plan: -regret(scenario.function, plan.space, plan.params), 10.0, rows, scenario.faults)
    slots = [Slot(f"slot{index}") for index in range(scenario.workers)]
    engine = SimulatedEngine(slots, clock, work, 0 if is_last else scenario.trials // scenario.lives)
    budgets = Budgets(settings, clock, float)
    control = Control(job, budgets, DiskWatch(workspace.metrics, lambda: 1e6, 0))
    recorder = Recorder(workspace, STUDY, store)
    run = SearchRun(
        job=job,
        control=control,
        listeners=Listeners(recorder, Activity(workspace.running_file(STUDY)), story),
        make_engine=lambda run, trials, phase: engine,
        summarise=functools.partial(recorder.summarise, WORLD_G_PER_KWH),
        interruptible=contextlib.nullcontext,
        clock=clock,
        absent_seconds=float,
        memory_percent=lambda: 50.0,
        gpu_needs=GpuNeeds(),
        read_gpus=None,
        explore_only=True,
    )
    try:
        Loop(run, Exploration(job), engine).run()
    except KeyboardInterrupt:
        if is_last:
            raise
    engine.close()
    return engine


def show_scale(asked: argparse.Namespace) -> None:
    """Print how busy slots are, from one worker to many, next to random search on the same workers."""
    table = Table(
        "workers",
        "trials",
        "time",
        "driver time",
        "busy",
        "once full",
        "decisions/s",
        "retries",
        "duplicates",
        "regret",
        "random",
    )
    for workers, trials in asked.runs:
        scenario = Scenario(workers, trials, seed=asked.seed, faults=asked.faults, lives=asked.lives)
        story = simulate(replace(scenario, driver=asked.driver, settings=asked.set))
        blind = simulate(Scenario(workers, trials, seed=asked.seed, driver="none", sampler=RANDOM))
        row = (
            f"{workers:,}",
            f"{len(story.regrets):,}",
            f"{story.virtual_seconds:,.0f} s",
            f"{story.driver_seconds:,.1f} s",
            f"{story.busy_share:.1%}",
            f"{story.filled_share:.1%}",
            f"{story.decisions / story.driver_seconds:,.0f}",
            str(story.attempts),
            str(story.most_duplicates),
            f"{story.regrets[-1]:.3f}",
            f"{blind.regrets[-1]:.3f}",
        )
        table.add_row(*row)
        print(*row, flush=True)
    Console(width=130).print(table)


def show_quality(asked: argparse.Namespace) -> dict[str, dict[int, list[list[float]]]]:
    """Print the regrets after equal numbers of trials, from one worker to many; return the runs."""
    runs: dict[str, dict[int, list[list[float]]]] = {}
    table = Table("sampler", "workers", *FUNCTIONS, "relative to first", title=f"median regret, {asked.trials} trials")
    for sampler in SAMPLERS:
        runs[sampler] = {}
        for workers in asked.workers if sampler != RANDOM else asked.workers[:1]:
            found: dict[str, list[list[float]]] = {}
            for function in FUNCTIONS:
                for seed in range(asked.seeds):
                    story = simulate(Scenario(workers, asked.trials, function, seed, driver="none", sampler=sampler))
                    found.setdefault(function, []).append(story.regrets)
                    if story.most_duplicates:
                        raise SystemExit(f"{story.most_duplicates} running trials had the same parameters")
            runs[sampler][workers] = [regrets for many in found.values() for regrets in many]
            ratio = _compare(runs[sampler][workers], runs[BOUNDED][asked.workers[0]])
            medians = [f"{statistics.median(one[-1] for one in many):.3f}" for many in found.values()]
            table.add_row(sampler, str(workers), *medians, f"{ratio:.2f} x")
            print(sampler, workers, *medians, f"{ratio:.2f}", flush=True)
    Console(width=110).print(table)
    return runs


def _compare(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Return the geometric mean of the ratios of the last regrets, run by run; values below 0.001 are chance."""
    ratios = (max(one[-1], 1e-3) / max(other[-1], 1e-3) for one, other in zip(ours, theirs, strict=True))
    return statistics.geometric_mean(ratios)


def plot(runs: dict[str, dict[int, list[list[float]]]], path: Path) -> None:
    """Draw the regret over the trials, the geometric mean of all functions and seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for sampler, by_workers in runs.items():
        if sampler == UNBOUNDED:
            continue
        for workers, many in by_workers.items():
            columns = [[min(max(value, 1e-3), 10.0) for value in column] for column in zip(*many, strict=True)]
            name = f"{workers} at a time" if sampler == BOUNDED else "random search"
            line = [statistics.geometric_mean(column) for column in columns]
            axes.plot(range(1, len(line) + 1), line, label=name, linestyle="-" if sampler == BOUNDED else "--")
    axes.set(xscale="log", yscale="log", xlabel="finished trials", ylabel="regret of the best trial")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of attempts that fail")
    parser.add_argument("--driver", choices=["wall", "cpu"], default="wall", help="how the driver's time counts")
    parser.add_argument("--lives", type=int, default=1, help="times that the driver runs; it is interrupted in between")
    parser.add_argument("--set", type=json.loads, default={}, help="settings as JSON")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    if asked.quality:
        asked.workers, asked.trials = asked.workers or [1, 4, 16, 64], asked.trials or 300
        runs = show_quality(asked)
        if asked.plot:
            plot(runs, asked.plot)
        return
    asked.runs = [(1, 100), (16, 500), (64, 1000), (256, 5000), (1024, 20_000)]
    if asked.workers:
        asked.runs = [(workers, asked.trials or 10 * workers) for workers in asked.workers]
    show_scale(asked)


if __name__ == "__main__":
    main()
