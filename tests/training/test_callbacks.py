"""What follows a training, epoch by epoch."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import SignOfLife
from mloptimizer.core.nouns import Objective, Phase
from mloptimizer.training.callbacks import Best, EpochMetrics, SignsOfLife
from mloptimizer.training.step.optimizers import make_optimizer


class Played:
    """A stand-in for the model, which plays one validation accuracy per epoch."""

    def __init__(self, accuracies: list[float]) -> None:
        self.accuracies = accuracies
        self.optimizer = make_optimizer({}, 0.1, [], Settings(), scale_loss=False)
        self.guard = SimpleNamespace(read_metrics=dict)
        self.steps_run, self.seconds_waited = 0, 0.0
        self.stop_training = False

    def read_metrics(self) -> dict[str, float]:
        return {"loss": 1.0, "accuracy": self.accuracies[0]}

    def get_weights(self) -> list[float]:
        return [self.accuracies[0]]

    def train(self, callback: EpochMetrics) -> int:
        """Return how many epochs the callback lets it train."""
        callback.set_model(self)
        for epoch in range(len(self.accuracies)):
            callback.on_epoch_begin(epoch)
            callback.on_test_begin()
            callback.on_epoch_end(epoch)
            if self.stop_training:
                break
            del self.accuracies[0]
        return epoch + 1


def silent(*_: Any) -> None:
    return None


def test_a_warm_start_may_fall_behind_its_initial_weights_for_longer_than_the_patience_while_it_improves() -> None:
    model = Played([0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.5, 0.5, 0.6])
    objective = Objective("val_accuracy")
    best = Best(model, objective)
    best.offer({"val_accuracy": 0.9})
    assert model.train(EpochMetrics(64, silent, best, 3, objective)) == 8
    assert best.value == 0.9


@pytest.mark.slow
def test_a_profile_of_the_steps_10_to_20_is_written_for_tensorboard(make_training_plan: Any, completed: Any) -> None:
    plan = make_training_plan(epochs=3, profiled=True)
    completed(plan)  # five steps an epoch
    written = list(Path(plan.directory).glob("profile/plugins/profile/*/*.xplane.pb"))
    assert len(written) == 1
    assert written[0].stat().st_size > 1000


@pytest.mark.slow
def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    make_training_plan: Any, completed: Any, validate: Any
) -> None:
    plan = make_training_plan({"ema_momentum": 0.9}, epochs=3, params={"learning_rate": 0.02})
    averaged, plain = (
        completed(plan),
        completed(replace(plan, settings=Settings(), directory=f"{plan.directory}-plain")),
    )
    assert averaged.curve("loss") == pytest.approx(plain.curve("loss"), abs=1e-6)  # the training is the same
    assert averaged.curve("val_loss") != pytest.approx(plain.curve("val_loss"), abs=1e-3)
    kept = validate(plan, averaged.result.weights)
    assert kept["loss"] == pytest.approx(averaged.result.metrics["val_loss"], abs=1e-5)


def test_a_plateau_lowers_the_rate(make_training_plan: Any, completed: Any) -> None:
    settings = {"schedule": "plateau", "warmup_epochs": 0, "objective": "val_loss"}
    params = {"learning_rate": 1e-12, "optimizer": "sgd"}  # too little to change anything
    done = completed(make_training_plan(settings, epochs=4, patience=4, params=params))
    assert done.curve("learning_rate") == pytest.approx([1e-12, 1e-12, 5e-13, 5e-13], rel=1e-5)


@pytest.mark.slow
def test_several_steps_in_one_call_are_the_same_steps(make_training_plan: Any, completed: Any) -> None:
    one, three = (completed(make_training_plan({"steps_per_execution": count})) for count in (1, 3))
    for metric in ("loss", "val_loss", "gradient_norm", "learning_rate"):
        assert three.curve(metric) == pytest.approx(one.curve(metric), abs=1e-6), metric


def test_waiting_for_batches_is_measured(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan(epochs=3))
    assert all(0 < share < 100 for share in done.curve("data_wait_percent"))


def test_a_training_gives_signs_of_life_from_its_first_step_on(make_training_plan: Any, completed: Any) -> None:
    done = completed(make_training_plan({"batch_size": 16}))
    signs = [event for event in done.events if isinstance(event, SignOfLife)]
    assert (signs[0].number, signs[0].step) == (7, 1)
    assert done.events.index(signs[0]) < done.events.index(done.epochs[0])
    assert [sign.step for sign in signs] == sorted({sign.step for sign in signs})
    assert len(signs) <= done.result.seconds + 1


def test_signs_of_life_come_at_most_once_a_second_from_training_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[int] = []
    signs = SignsOfLife(reports.append)
    signs.set_model(SimpleNamespace(steps_run=3))
    for now, sign in (
        (10.0, signs.on_train_batch_end),
        (10.9, signs.on_train_batch_end),
        (11.0, signs.on_test_batch_end),
    ):
        monkeypatch.setattr("mloptimizer.training.callbacks.time.monotonic", lambda now=now: now)
        sign(0)
        signs.model.steps_run += 1
    assert reports == [3, 5]


def test_the_test_evaluation_gives_a_sign_of_life(make_training_plan: Any, completed: Any) -> None:
    plan = make_training_plan(epochs=1)
    start = completed(plan).result
    done = completed(replace(plan, phase=Phase.TEST_EVALUATION, initial_weights=start.weights))
    assert [event for event in done.events if isinstance(event, SignOfLife)] == [SignOfLife(7, 0)]
