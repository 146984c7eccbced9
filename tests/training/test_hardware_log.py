"""The training in the hardware log: on the clock of the epochs, and counted to the last image."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mloptimizer.core.events import EpochRecord
from mloptimizer.core.nouns import Outcome, Slot, TrialPlan
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.monitor import Monitor
from mloptimizer.hardware.read.reader import HardwareReader, column_names
from mloptimizer.hardware.read.training_clock import TrainingClock
from mloptimizer.training.trial import run_trial
from tests.hardware.logs import read_log
from tests.training.conftest import Run

pytestmark = pytest.mark.slow

INTERVAL_SECONDS = 0.02
BATCH, STEPS = 16, 20  # of the 320 images of an epoch


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., tuple[Run, pd.DataFrame]]:
    """Returns a function that trains the plan as a worker does; it gives the run and the rows of the run alone."""

    def train(plan: TrialPlan, stop_after_epochs: int | None = None) -> tuple[Run, pd.DataFrame]:
        path, clock, events = tmp_path / "log.csv", TrainingClock(), []
        rows_before = len(read_log(path)) if path.exists() else 0

        def should_stop() -> bool:
            return sum(isinstance(event, EpochRecord) for event in events) == stop_after_epochs

        log = HardwareLog(path, column_names(0))
        with Monitor(HardwareReader([], os.getpid(), clock), INTERVAL_SECONDS, log.append):
            result = run_trial(plan, Slot("cpu0", cpu_ids=(0, 1)), events.append, should_stop, clock)
        log.close()
        return Run(result, events), read_log(path).iloc[rows_before:].reset_index(drop=True)

    return train


PARTS = ("setup", "build", "first_step", "training", "validation", "checkpoint", "save")


def test_the_epochs_and_the_steps_of_the_log_are_on_one_clock_within_a_sample(
    make_training_plan: Any, logged: Any
) -> None:
    done, rows = logged(make_training_plan({"batch_size": BATCH}, epochs=4))
    assert done.result.outcome is Outcome.COMPLETED
    steps, epochs, times = rows["step"], rows["epoch"], rows["time_utc"]
    for record in done.epochs:
        ended = pd.Timestamp(record.ended_utc)
        before, after = times.shift(-1) < ended, times.shift(1) >= ended  # the rows next to the end may be either
        assert before.any()
        assert after.any() or record.epoch == 4  # of which little may follow
        assert (steps[before] <= record.epoch * STEPS).all() and (steps[after] >= record.epoch * STEPS).all()
        assert (epochs[before] <= record.epoch).all() and (epochs[after] >= record.epoch).all()
    assert (steps.iloc[-1], epochs.iloc[-1]) == (4 * STEPS, 4)


def test_the_images_of_the_log_are_the_steps_times_the_batch(make_training_plan: Any, logged: Any) -> None:
    _, rows = logged(make_training_plan({"batch_size": BATCH}, epochs=3))
    assert rows["images"].is_monotonic_increasing
    assert (rows["images"] == rows["step"] * BATCH).all()
    assert rows["images"].iloc[-1] == 3 * STEPS * BATCH
    seconds = rows["seconds"].diff().fillna(rows["seconds"].iloc[0])
    assert (rows["images_per_second"] * seconds).sum() == pytest.approx(3 * STEPS * BATCH, rel=0.02)  # ms are written
    assert (rows["data_wait_percent"] / 100 * seconds).sum() <= rows["data_wait_s"].iloc[-1] + 0.01


def test_the_parts_of_the_log_add_up_to_the_run(make_training_plan: Any, logged: Any) -> None:
    done, rows = logged(make_training_plan({"batch_size": BATCH}, epochs=3))
    last, timings = rows.iloc[-1], done.result.timings
    parts = {part: last[f"{part}_s"] for part in PARTS}
    assert all(seconds > 0 for seconds in parts.values())
    assert 0.9 * done.result.seconds < sum(parts.values()) <= done.result.seconds + 0.01
    for part in ("setup", "build", "training", "validation", "checkpoint", "save"):
        assert parts[part] == pytest.approx(timings[part], abs=0.05)
    assert parts["first_step"] >= timings["first_step"] - 0.05
    cumulative = rows[[f"{part}_s" for part in PARTS]]
    assert (cumulative.diff().dropna() >= 0).all(axis=None)
    assert {"setup", "first_step", "training"} <= set(rows["part"].dropna()) <= set(PARTS)


def test_a_resumed_trial_does_not_count_the_images_before_its_checkpoint_again(
    make_training_plan: Any, logged: Any
) -> None:
    plan = make_training_plan({"batch_size": BATCH}, epochs=4)
    cut, first = logged(plan, stop_after_epochs=2)
    assert (cut.result.outcome, len(cut.epochs)) == (Outcome.PRUNED, 2)
    assert first["images"].iloc[-1] == first["step"].iloc[-1] * BATCH >= 2 * STEPS * BATCH
    done, second = logged(replace(plan, resumes=True, attempt=2, recorded_epochs=2))
    assert done.result.outcome is Outcome.COMPLETED
    begun = done.epochs[0].epoch - 1  # the epochs of the checkpoint
    assert begun >= 1
    assert second["step"].iloc[-1] == 4 * STEPS
    assert second["images"].iloc[-1] == (4 - begun) * STEPS * BATCH
    assert second["images"].iloc[0] == second["training_s"].iloc[0] == 0
    assert second["seconds"].iloc[0] < first["seconds"].iloc[-1]
