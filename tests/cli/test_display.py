import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from mloptimizer.cli.display import (
    LiveDisplay,
    describe_result,
    describe_summary,
    make_display,
)
from mloptimizer.core.events import Decision, EndedAttempt, EpochRecord
from mloptimizer.core.listener import Progress, SearchBegan
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Outcome, Phase, Slot, TrialPlan, TrialResult, failed
from mloptimizer.search.phase_order import SearchSummary

MakePlan = Callable[..., TrialPlan]
DONE = TrialResult(7, Outcome.COMPLETED, 0.91234, 12.3)


BEGAN = SearchBegan("s", "digits", 1, "val_accuracy", "process", continued=False)


def progress(**changes: Any) -> Progress:
    facts: dict[str, Any] = {
        "phase": Phase.EXPLORATION,
        "total": 4,
        "running": 1,
        "best": (7, 0.9),
        "seconds_left": 61.0,
    }
    return Progress(**{**facts, "ended": {Outcome.COMPLETED: 1, Outcome.PRUNED: 0, Outcome.FAILED: 1}, **changes})


@pytest.fixture
def summary(make_dataset: Callable[..., DatasetInfo]) -> Callable[..., list[str]]:
    """Returns the lines of a summary of which the named fields matter."""

    def lines(**changes: Any) -> list[str]:
        facts: dict[str, Any] = {
            "study": "s",
            "objective": "val_accuracy",
            "dataset": make_dataset(validation_size=100),
            "winner": 7,
            "winner_phase": Phase.HALL_OF_FAME,
            "value": 0.9,
            "exploration": {Outcome.COMPLETED: 1, Outcome.FAILED: 0},
            "hall_of_fame": {},
            "test_evaluations": (),
            "seconds": 75.0,
        }
        return describe_summary(SearchSummary(**{**facts, **changes}))

    return lines


def test_without_a_terminal_each_ended_trial_is_a_line(make_plan: MakePlan) -> None:
    out = io.StringIO()
    with make_display(Console(file=out)) as display:
        display.search_began(BEGAN)
        display.progress(progress(total=4, ended={}))
        display.trial_started(make_plan(7), Slot("cpu"))
        display.epoch_ended(make_plan(7), EpochRecord(7, 1, {"val_accuracy": 0.5}, 1.0))
        display.trial_ended(make_plan(7), DONE)
        display.progress(progress())
    began, first, second = out.getvalue().splitlines()
    assert began == "Study 's' (new): data set digits, seed 1"
    assert first == "Exploration: 4 trials"
    assert second.startswith(
        "trial 7 (line): val_accuracy 0.9123 in 12 s | 2 of 4 done (1 completed, 1 failed), 1 running"
    )
    assert second.endswith("best val_accuracy 0.9000 (trial 7), about 1 min 1 s left")


def test_a_terminal_shows_the_running_trials_with_their_epochs(make_plan: MakePlan) -> None:
    out = io.StringIO()
    with make_display(Console(file=out, force_terminal=True, width=100)) as display:
        display.search_began(BEGAN)
        assert isinstance(display, LiveDisplay)
        display.progress(progress())
        display.trial_started(make_plan(8), Slot("cpu"))
        display.epoch_ended(make_plan(8), EpochRecord(8, 2, {"val_accuracy": 0.625}, 1.0))
        display.trial_ended(make_plan(7), DONE)
    assert "trial 7 (line): val_accuracy 0.9123" in out.getvalue()
    assert "epoch 2/3" in out.getvalue()
    assert "0.6250" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_trial_that_will_start_again_is_announced_at_once(make_plan: MakePlan, terminal: bool) -> None:
    out = io.StringIO()
    with make_display(Console(file=out, force_terminal=terminal, width=100)) as display:
        display.search_began(BEGAN)
        display.trial_started(make_plan(3), Slot("cpu"))
        attempt = EndedAttempt(1, "out_of_memory", "too large", 0, 1.0)
        display.attempt_ended(make_plan(3), attempt, "no room; again")
        assert "trial 3: no room; again" in out.getvalue()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (failed(1, FailureKind.OUT_OF_MEMORY, "too large"), "failed, out_of_memory: too large"),
        (TrialResult(1, Outcome.PRUNED, None, 3.0), "pruned after 3 s"),
    ],
)
def test_the_line_of_an_ended_trial_says_how_it_ended(make_plan: MakePlan, result: TrialResult, words: str) -> None:
    assert words in describe_result(make_plan(1), result, "val_accuracy")


@pytest.mark.parametrize(
    ("value", "words"), [(0.9, "(guessing gives 0.10)"), (0.15, "NOT clearly better than guessing")]
)
def test_the_winner_is_compared_with_chance(summary: Callable[..., list[str]], value: float, words: str) -> None:
    assert words in next(line for line in summary(value=value) if line.startswith("Best so far"))


def test_the_summary_includes_the_notes_of_the_search(summary: Callable[..., list[str]]) -> None:
    assert "--profile-trial 9: none" in summary(notes=("--profile-trial 9: none",))


def test_the_summary_says_how_often_the_test_set_was_read(summary: Callable[..., list[str]]) -> None:
    reading = {"trial": 7, "test_accuracy": 0.875, "test_loss": 0.5}
    assert "read once): test_accuracy 0.8750, test_loss 0.5000" in summary(test_evaluations=(reading,))[-1]
    assert "read 2 times" in summary(test_evaluations=(reading, reading))[-1]


def test_the_best_trial_is_the_winner_when_it_has_been_tested(summary: Callable[..., list[str]]) -> None:
    readings = [{"trial": 7, "phase": phase} for phase in Phase]
    for reading in readings:
        titles = [line.split(":")[0] for line in summary(test_evaluations=(reading,))]
        assert ("Winner" in titles) is (reading["phase"] is Phase.HALL_OF_FAME)
        assert ("Best so far" in titles) is (reading["phase"] is not Phase.HALL_OF_FAME)


def test_a_paused_search_shows_no_time_left_and_no_running_trial(make_plan: MakePlan) -> None:
    def shown() -> str:
        out = io.StringIO()
        Console(file=out, width=100).print(display)
        return out.getvalue()

    display = LiveDisplay(Console(file=io.StringIO(), width=100))
    display.began = BEGAN
    display.progress(progress(doing={8: "first_step"}))
    display.trial_started(make_plan(8), Slot("cpu"))
    assert "tracing and compiling" in shown()
    display.progress(progress(paused=True, running=0))
    assert "paused" in shown()
    assert not any(words in shown() for words in (" left", "trial 8", "running"))


def test_a_search_ends_with_what_slows_it_down(summary: Callable[..., list[str]]) -> None:
    line = "Hardware: a line for the end."
    assert summary(hardware=line)[-1] == line
    assert summary(hardware=line, winner=None)[-1] == line
    assert not any(line.startswith("Hardware") for line in summary())


@pytest.mark.parametrize("terminal", [False, True])
def test_a_search_says_once_that_its_models_cannot_be_exported(terminal: bool) -> None:
    output = io.StringIO()
    display = make_display(Console(file=output, force_terminal=terminal, width=200))
    for number in (0, 1):
        display.decided(Decision(number, "export", "not possible", "layer 'scale' is yours"))
        display.decided(Decision(number, "XLA", "off", "on a CPU"))
    assert output.getvalue().count("layer 'scale' is yours") == 1
    assert "XLA" not in output.getvalue()
