"""Shows a running search: a live view in a terminal, plain lines elsewhere."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mloptimizer.cli.terminal import say
from mloptimizer.core.events import Decision, EndedAttempt, EpochRecord
from mloptimizer.core.listener import Listener, Progress, SearchBegan
from mloptimizer.core.nouns import Outcome, Phase, Slot, TrialPlan, TrialResult
from mloptimizer.core.words import counted
from mloptimizer.reports.formatting import duration
from mloptimizer.search.phase_order import SearchSummary

# by part of a trial, as the hardware log names it
_STAGES = {"setup": "preparing its data", "build": "building the model", "first_step": "tracing and compiling"}


class Display(Listener, AbstractContextManager["Display"]):
    """Shows a search; it is open inside its `with` block."""

    def __init__(self, console: Console) -> None:
        self.began: SearchBegan | None = None  # None: the request has not been checked yet
        self._console = console
        self._export_noticed = False

    def __exit__(self, *error: object) -> None:
        return

    @property
    def _objective(self) -> str:
        return self.began.objective if self.began else ""

    def search_began(self, began: SearchBegan) -> None:
        """Print the study, its data set and seed, and what the person should know."""
        self.began = began
        state = "continued" if began.continued else "new"
        self._print(f"Study '{began.study}' ({state}): data set {began.dataset}, seed {began.seed}")
        for note in began.notes:
            self._print(note)

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        if reason:
            self.notice(f"trial {plan.number}: {reason}")

    def decided(self, decision: Decision) -> None:
        """Print why the first such model cannot be exported; other choices go to debug_strategy.log only."""
        if decision.topic == "export" and not self._export_noticed:
            self._export_noticed = True
            self.notice(f"trial {decision.number}: its model trains, but cannot be exported: {decision.reason}")

    def notice(self, line: str) -> None:
        self._print(line, "yellow" if self._console.is_terminal else "")

    def _print(self, line: str, style: str = "") -> None:
        say(self._console, line, style=style)


def make_display(console: Console) -> Display:
    """Return a live display where the console is a terminal, otherwise plain lines."""
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


class LineDisplay(Display):
    """One line per ended trial, and one when a phase begins."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._phase: Phase | None = None
        self._ended = ""

    def progress(self, progress: Progress) -> None:
        """Print the trial that has just ended and the phase's progress, or that a phase begins."""
        if progress.phase is not self._phase:
            self._phase = progress.phase
            before = f", {progress.done} already done" if progress.done else ""
            self._print(f"{progress.phase.words.capitalize()}: {counted(progress.total, 'trial')}{before}")
        elif self._ended:
            self._print(f"{self._ended} | {describe_progress(progress, self._objective)}")
        self._ended = ""

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        """Keep the line for `progress`, which comes next."""
        if self._ended:
            self._print(self._ended)
        self._ended = describe_result(plan, result, self._objective)


class LiveDisplay(Display):
    """The phase's progress and every running trial, redrawn in place; ended trials scroll by above."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress: Progress | None = None
        self._has_begun = False  # some trial has loaded TensorFlow
        self._running: dict[int, tuple[TrialPlan, EpochRecord | None]] = {}
        self._live = Live(console=console, get_renderable=self.__rich__, refresh_per_second=4, transient=True)

    def search_began(self, began: SearchBegan) -> None:
        """Print as above, and start the live view."""
        super().search_began(began)
        if began.engine != "thread":  # there a debugger may use the terminal
            self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def progress(self, progress: Progress) -> None:
        self._progress = progress

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        self._running[plan.number] = (plan, None)

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        self._running[plan.number] = (plan, record)

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        """Print why the trial will start again; until then it is not running."""
        self._running.pop(plan.number, None)
        super().attempt_ended(plan, attempt, reason)

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        self._running.pop(plan.number, None)
        style = {Outcome.COMPLETED: "", Outcome.PRUNED: "dim", Outcome.FAILED: "red"}[result.outcome]
        self._print(describe_result(plan, result, self._objective), style)

    def __rich__(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Text("Preparing the data …")
        bar = Table.grid(padding=(0, 1))
        title = Text(progress.phase.words.capitalize(), style="bold")
        bar.add_row(title, ProgressBar(progress.total, progress.done, width=30), f"{progress.done}/{progress.total}")
        if progress.paused and not progress.running:
            self._running.clear()  # they start again on resume
        trials = Table.grid(padding=(0, 2))
        for number, (plan, record) in sorted(self._running.items()):
            epoch = f"epoch {record.epoch if record else 0}/{plan.epochs}" if plan.epochs else "test set"
            value = f"{self._objective} {record.metrics[self._objective]:.4f}" if record else self._stage(number)
            trials.add_row(f"  trial {number}", plan.space, epoch, value)
        return Group(bar, Text(describe_progress(progress, self._objective)), trials)

    def _stage(self, number: int) -> str:
        """Return what a trial does before its first epoch ends; TensorFlow loads until some trial does its own work."""
        part = self._progress.doing.get(number, "") if self._progress else ""
        self._has_begun = self._has_begun or bool(part)
        return _STAGES.get(part, part) or ("starting" if self._has_begun else "starting: importing TensorFlow")


def describe_result(plan: TrialPlan, result: TrialResult, objective: str) -> str:
    """Return one line about an ended trial."""
    phase = "" if plan.phase is Phase.EXPLORATION else f", {plan.phase.words}"
    what = f"trial {plan.number} ({plan.space}){phase}"
    if result.failure:
        return f"{what}: failed, {result.failure.kind}: {result.failure.message}"
    if result.outcome is Outcome.PRUNED:
        return f"{what}: pruned after {result.seconds:.0f} s"
    if plan.phase is Phase.TEST_EVALUATION:
        return f"{what}: done in {result.seconds:.0f} s"
    return f"{what}: {objective} {result.value:.4f} in {result.seconds:.0f} s"


def describe_progress(progress: Progress, objective: str) -> str:
    """Return one line about the progress of a phase."""
    counts = _list_counts(progress.ended)
    parts = [f"{progress.done} of {progress.total} done" + (f" ({counts})" if counts else "")]
    if progress.paused:
        parts.append("pausing" if progress.running else "paused")
    if progress.running or not progress.paused:
        parts.append(f"{progress.running} running")
    if progress.best:
        parts.append(f"best {objective} {progress.best[1]:.4f} (trial {progress.best[0]})")
    if progress.seconds_left is not None and progress.done < progress.total and not progress.paused:
        parts.append(f"about {duration(progress.seconds_left, 0)} left")
    return ", ".join(parts)


def _list_counts(counts: Mapping[Outcome, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)


def describe_summary(summary: SearchSummary) -> list[str]:
    """Return the result of a search as lines for a person."""
    lines = []
    for title, counts in (("Exploration", summary.exploration), ("Hall of fame", summary.hall_of_fame)):
        if total := sum(counts.values()):
            lines.append(f"{title}: {counted(total, 'trial')}: {_list_counts(counts)}")
    lines += [f"This run took {duration(summary.seconds, 0)}.", *summary.notes]
    if summary.stopped:
        lines.append(f"It stopped early: {summary.stopped}. `resume` continues its running trials.")
    if summary.winner is not None and summary.value is not None:
        title = "Winner" if summary.is_tested else "Best so far"
        trial = f"trial {summary.winner} ({(summary.winner_phase or Phase.EXPLORATION).words})"
        lines.append(f"{title}: {trial}, {summary.objective} {summary.value:.4f}{_compare_to_chance(summary)}")
        if count := len(summary.test_evaluations):
            reading = summary.test_evaluations[-1].items()
            metrics = ", ".join(f"{name} {value:.4f}" for name, value in reading if name.startswith("test_"))
            times = "once" if count == 1 else f"{count} times, after each extension"
            lines.append(f"Test set ({summary.dataset.test_size} images, read {times}): {metrics}")
    return lines + ([summary.hardware] if summary.hardware else [])


def _compare_to_chance(summary: SearchSummary) -> str:
    """Compare the value with guessing; within three standard errors of it, it is not clearly better."""
    if summary.objective != "val_accuracy" or summary.value is None:
        return ""
    chance = 1 / summary.dataset.classes
    error = (chance * (1 - chance) / summary.dataset.validation_size) ** 0.5
    compared = "guessing gives" if summary.value > chance + 3 * error else "NOT clearly better than guessing:"
    return f" on {summary.dataset.validation_size} images ({compared} {chance:.2f})"
