"""How many GPUs each trial gets; the measured trainings are a few lines, and how fast they are is stated."""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mloptimizer.app.engine_choice import ask_for_gpus
from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Emit, EpochRecord, ShouldStop
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.engines.contract import Engine
from mloptimizer.engines.slots import GpusPerTrial
from mloptimizer.engines.thread_engine import ThreadEngine
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.search.search_run import SearchRun
from mloptimizer.store.orders import Order, OrderName, send_order
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.gpus_per_trial import Load, choose_gpus_per_trial
from mloptimizer.tuning.measurement import Machine
from tests.small_searches import Interrupt, Search, run_small_search, train

Speeds = Mapping[int, float | None]
"""Images per second by GPUs; None: the training fails."""


class Gpus:
    """Eight GPUs on which short trainings are as fast as stated, each after 10 s of start-up."""

    def __init__(self, speeds: Speeds, count: int = 8, mig: bool = False) -> None:
        self.speeds = speeds
        self.measured: list[tuple[int, TrialPlan]] = []  # GPUs and plan of each training
        self.chosen: dict[Phase, GpusPerTrial | None] = {}
        gpus = tuple(Gpu(i, f"GPU-{i}", "H100", 80_000, (9, 0), "580", mig=mig) for i in range(count))
        self.machine = Machine(gpus, "a processor", 8, self._slot, lambda s: ThreadEngine([self._slot(s)], self._train))

    def _slot(self, settings: Settings) -> Slot:
        assert settings.trials_per_gpu == 1
        return Slot("measured", gpu_ids=tuple(str(i) for i in range(int(settings.gpus_per_trial))))

    def _train(self, plan: TrialPlan, slot: Slot, emit: Emit, should_stop: ShouldStop) -> TrialResult:
        self.measured.append((len(slot.gpu_ids), plan))
        speed = self.speeds[len(slot.gpu_ids)]
        if speed is None:
            return failed(plan.number, FailureKind.CRASH, "NCCL is broken")
        for epoch in range(1, plan.epochs + 1):
            emit(EpochRecord(plan.number, epoch, {"val_accuracy": 0.1, "images_per_second": speed}, 2.0))
        timings = {"setup": 4.0, "build": 6.0, "fit": 2.0 * plan.epochs}
        return TrialResult(plan.number, Outcome.COMPLETED, 0.1, 9.0, timings=timings)

    def make_engine(self, run: SearchRun, trials: int, phase: Phase) -> Engine:
        self.chosen[phase] = choose_gpus_per_trial(ask_for_gpus(run, trials, phase), self.machine)
        return ThreadEngine([Slot("one")], train)

    def sizes(self) -> list[int]:
        return [size for size, _ in self.measured]


@pytest.fixture
def search(workspace: Workspace, make_dataset: Callable[..., DatasetInfo]) -> Search:
    """Runs a search of 6 trials, 3 of which are trained for long; a long training is on 8 million images."""
    dataset = make_dataset(train_size=80_000)
    return functools.partial(run_small_search, workspace, dataset, hall_of_fame_epochs=100, hall_of_fame_size=3)


def choose(search: Search, gpus: Gpus, phase: Phase = Phase.EXPLORATION, **settings: Any) -> GpusPerTrial:
    only = {"explore_only": True} if phase is Phase.EXPLORATION else {}
    search(new_engine=gpus.make_engine, list_gpus=lambda: gpus.machine.gpus, **only, **settings)
    chosen = gpus.chosen[phase]
    assert chosen is not None
    return chosen


# What may pay at all


@pytest.mark.parametrize(
    ("trials", "gpus", "sizes"),
    [
        (100, 8, []),
        (8, 8, []),
        (16, 8, []),
        (17, 2, []),
        (1, 8, [8, 4, 2]),
        (6, 8, [8, 4]),
        (9, 8, [8, 4, 2]),
        (2, 3, [3]),
        (5, 6, [6]),
    ],
)
def test_only_what_pays_with_perfect_scaling_is_worth_measuring(trials: int, gpus: int, sizes: list[int]) -> None:
    assert Load(trials, gpus, workers=gpus).sizes() == sizes


def test_fewer_workers_than_gpus_leave_gpus_for_each() -> None:
    assert Load(100, 4, workers=1).most_gain(4) == 4.0


def test_what_cannot_pay_is_not_measured_and_that_is_told(search: Search) -> None:
    gpus = Gpus({})
    chosen = choose(search, gpus, trials=16)
    assert gpus.measured == []
    assert chosen == GpusPerTrial(
        1, "16 trials on 8 GPUs: with more each, trials per hour would grow 1.00 times at most"
    )


# What is chosen


@pytest.mark.parametrize(
    ("speeds", "size"),
    [
        ({1: 1000.0, 4: 3000.0, 8: 8000.0}, 8),
        ({1: 1000.0, 4: 3900.0, 8: 4000.0}, 4),
        ({1: 1000.0, 4: 540.0, 8: 540.0}, 1),
        ({1: 1000.0, 4: 2950.0, 8: 6000.0}, 1),
    ],
    ids=["all scale", "half of them scales", "none scales", "too little is gained"],
)
def test_what_trains_most_per_hour_is_taken(search: Search, speeds: Speeds, size: int) -> None:
    gpus = Gpus(speeds)
    assert choose(search, gpus, exploration_epochs=20).count == size
    assert gpus.sizes() == [1, 8, 4]


def test_the_choice_is_told_with_its_figures(search: Search) -> None:
    chosen = choose(search, Gpus({1: 1000.0, 4: 3000.0, 8: 8000.0}), exploration_epochs=20)
    assert chosen.reason == (
        "6 trials, measured; "
        "13.4 trials per hour with 1 GPU each (1,000 images/s, 1,610 s per trial, 1 round); "
        "17.1 trials per hour with 8 GPUs each (8,000 images/s, 210 s per trial, 6 rounds); "
        "13.3 trials per hour with 4 GPUs each (3,000 images/s, 543 s per trial, 3 rounds)"
    )


def test_a_ragged_last_round_counts(search: Search) -> None:
    gpus = Gpus({1: 1000.0, 2: 1400.0, 4: 1800.0, 8: 6000.0})
    assert choose(search, gpus, trials=9, exploration_epochs=20).count == 8


def test_the_start_up_counts(search: Search) -> None:
    gpus = Gpus({1: 80_000.0, 4: 320_000.0, 8: 640_000.0})
    assert choose(search, gpus, exploration_epochs=1).count == 1, "10 s of start-up for each of 6 rounds"


def test_the_person_is_told_that_it_is_measured(search: Search) -> None:
    gpus = Gpus({1: 1.0, 4: 1.0, 8: 1.0})
    _, watcher = search(new_engine=gpus.make_engine, explore_only=True)
    assert watcher.notices == [
        "Measuring short trainings on 1, 4 and 8 GPUs, once, to see how many each trial should get; "
        "--set gpus_per_trial=1 skips it."
    ]


# What is measured


def test_an_exploration_is_measured_with_the_model_of_tune(search: Search) -> None:
    gpus = Gpus({1: 1.0, 4: 1.0, 8: 1.0})
    choose(search, gpus)
    assert {(plan.space, plan.steps_per_epoch, plan.epochs) for _, plan in gpus.measured} == {("resnet", 30, 3)}


def test_the_hall_of_fame_is_measured_with_its_best_model(search: Search, workspace: Workspace) -> None:
    gpus = Gpus({1: 1000.0, 2: 1000.0, 4: 3900.0, 8: 8000.0})
    assert choose(search, gpus, Phase.HALL_OF_FAME, trials=8).count == 8
    assert gpus.chosen[Phase.TEST_EVALUATION] == GpusPerTrial(1, "nothing is trained")
    _, plan = gpus.measured[0]
    assert plan.space == "line"
    assert plan.params == max((p for _, p in gpus.measured), key=lambda p: p.params["x"]).params
    values = [json.loads(path.read_text())["value"] for path in workspace.study("s").glob("trial_*/result.json")]
    assert plan.params["x"] * (1 - 0.5**3) == pytest.approx(max(values))


def test_a_search_that_goes_on_does_not_measure_again(search: Search) -> None:
    first, again = Gpus({1: 1000.0, 4: 3000.0, 8: 8000.0}), Gpus({})
    choose(search, first, exploration_epochs=20)
    assert choose(search, again, trials=12, exploration_epochs=20).count == 8
    assert again.measured == []


def test_other_gpus_or_settings_are_measured_anew(search: Search) -> None:
    choose(search, Gpus({1: 1000.0, 4: 3000.0, 8: 8000.0}))
    again = Gpus({1: 1000.0, 4: 3000.0, 8: 8000.0})
    choose(search, again, trials=12, precision="float32")
    assert again.sizes() == [1, 8, 4]


@pytest.mark.parametrize("text", ["", "{}", '{"identity": 3, "paces": 3}', "not json"])
def test_a_damaged_cache_is_measured_anew(search: Search, workspace: Workspace, text: str) -> None:
    kept = workspace.cache("s") / "gpus_per_trial_exploration.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(text)
    gpus = Gpus({1: 1000.0, 4: 3000.0, 8: 8000.0})
    choose(search, gpus)
    assert gpus.sizes() == [1, 8, 4]


# What is not measured


def test_a_measurement_that_fails_keeps_the_choice_by_number_and_says_why(search: Search) -> None:
    chosen = choose(search, Gpus({1: None}))
    assert chosen == GpusPerTrial(
        8, "6 trials are fewer than 8 GPUs: each gets all of them; measured with 1 GPU it failed: crash: NCCL is broken"
    )


def test_a_measurement_without_room_for_its_folder_ends_no_search(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    chosen = choose(search, Gpus({}))
    assert chosen.count == 8
    assert "the measurement failed" in chosen.reason


def test_a_size_that_fails_is_not_taken(search: Search) -> None:
    chosen = choose(search, Gpus({1: 1000.0, 4: None, 8: None}), exploration_epochs=20)
    assert chosen.count == 1
    assert "with 8 GPUs it failed: crash: NCCL is broken; with 4 GPUs it failed" in chosen.reason


@pytest.mark.parametrize(
    ("settings", "count"), [({"gpus_per_trial": 2}, 2), ({"trials_per_gpu": 2}, 1)], ids=["stated", "shared"]
)
def test_what_is_stated_is_not_measured(search: Search, settings: dict[str, Any], count: int) -> None:
    gpus = Gpus({})
    assert choose(search, gpus, **settings).count == count
    assert gpus.measured == []


def test_mig_instances_are_not_measured(search: Search) -> None:
    chosen = choose(search, Gpus({}, mig=True))
    assert (chosen.count, "MIG" in chosen.reason) == (1, True)


def test_one_gpu_and_none_are_not_measured(search: Search) -> None:
    gpus = Gpus({}, count=1)
    assert choose(search, gpus).count == 1
    none = Gpus({}, count=0)
    search(new_engine=none.make_engine, explore_only=True, trials=7)
    assert none.chosen[Phase.EXPLORATION] is None


@pytest.mark.parametrize(("order", "said"), [(OrderName.STOP, "stop"), (OrderName.PAUSE, "pause")])
def test_an_order_breaks_the_measurement_off(search: Search, workspace: Workspace, order: OrderName, said: str) -> None:
    gpus = Gpus({})

    def make_engine(run: SearchRun, trials: int, phase: Phase) -> Engine:
        send_order(workspace.orders("s"), Order(order))
        engine = gpus.make_engine(run, trials, phase)
        send_order(workspace.orders("s"), Order(OrderName.STOP))
        return engine

    search(new_engine=make_engine, explore_only=True)
    chosen = gpus.chosen[Phase.EXPLORATION]
    assert chosen is not None
    assert (chosen.count, gpus.measured) == (8, [])
    assert chosen.reason.endswith(f"not measured: the search was asked to {said}")


def test_ctrl_c_ends_the_measurement_and_the_search(search: Search) -> None:
    gpus = Gpus({1: 1.0, 4: 1.0, 8: 1.0})
    with pytest.raises(KeyboardInterrupt):
        search(new_engine=gpus.make_engine, interruptible=Interrupt(3), explore_only=True)
    assert gpus.chosen == {}
    search(new_engine=gpus.make_engine, explore_only=True)
    assert gpus.chosen[Phase.EXPLORATION] is not None
