"""Writes every event of a search to its file: epochs and results, hardware rows, automatic choices."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.files import append_line, write_readme
from mloptimizer.core.nouns import (
    Decision,
    EndedAttempt,
    EpochRecord,
    Event,
    HardwareSample,
    Phase,
    Slot,
    TrialPlan,
    TrialResult,
)
from mloptimizer.core.words import utc_now
from mloptimizer.hardware.analysis.diagnosis import describe_trial
from mloptimizer.hardware.analysis.grid import WORLD_G_PER_KWH
from mloptimizer.hardware.columns import Cell
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.machine import list_cpus
from mloptimizer.hardware.read.reader import column_names, render_log_readme
from mloptimizer.store.activity import Activity
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace

_logger = logging.getLogger(__name__)


class Recorder:
    """The one writer of a study's records."""

    def __init__(
        self, workspace: Workspace, study: str, store: MetricsStore, grid_g_per_kwh: float = WORLD_G_PER_KWH
    ) -> None:
        """Args: grid_g_per_kwh: what a kWh stands for, g of CO2."""
        self._grid_g_per_kwh = grid_g_per_kwh
        self._workspace = workspace
        self._study = study
        self._store = store
        self._plans: dict[int, TrialPlan] = {}
        self._slots: dict[int, Slot] = {}  # that of each running trial
        self._logs: dict[int, HardwareLog] = {}
        self._told: set[int] = set()  # the trials of which rows were lost
        self._choices: dict[int, dict[str, str]] = {}  # made automatically, by trial and topic
        self._activity = Activity(workspace.running_file(study))

    def begin(self, slots: Sequence[Slot]) -> None:
        """Take the slots that the next trials run on; those of a cluster come and go meanwhile."""
        self._activity.begin(slots)
        self._activity.write()

    def show_running(self, paused: bool) -> None:
        """Let those who watch the search know what runs now, or that it pauses."""
        self._activity.pause(paused)
        self._activity.write()

    def close(self) -> None:
        """Take that the search has ended in an orderly way: nothing runs any more."""
        self._activity.close()
        for log in self._logs.values():
            log.close()

    def start(self, plan: TrialPlan, slot: Slot) -> int:
        """Write the plan and open the trial's hardware log; return how many epochs the trial has made before.

        What was there is replaced, unless the plan goes on from it.
        """
        self._plans[plan.number], self._slots[plan.number] = plan, slot
        self._choices[plan.number] = {}
        epochs = self._store.start(plan, slot)
        write_readme(self._workspace.hardware_logs / "README.md", render_log_readme())
        path = self._workspace.hardware_log(self._study, plan.number, plan.phase)
        if not plan.resumes:
            path.unlink(missing_ok=True)
        self._logs[plan.number] = HardwareLog(path, column_names(len(slot.gpu_ids), slot.cpu_ids or list_cpus()))
        self._activity.start(plan, slot)
        return epochs

    def read_attempts(self, plan: TrialPlan) -> list[EndedAttempt]:
        """Return the attempts of the plan's trial that have ended, in earlier runs of the search too.

        One that ended with its driver, and was recorded by nobody, is recorded now; its time is that of its epochs.
        """
        ended = self._store.read_attempts(plan.number, plan.phase)
        if plan.attempt > 1 and (not ended or ended[-1].attempt < plan.attempt - 1):
            epochs, seconds = self._store.measure(plan.number, plan.phase)
            seconds = max(seconds - sum(attempt.seconds for attempt in ended), 0.0)
            lost = EndedAttempt(plan.attempt - 1, "interrupted", "the search died", epochs, round(seconds, 3))
            self._store.add_attempt(plan, lost)
            ended.append(lost)
        return ended

    def end_attempt(self, plan: TrialPlan, attempt: EndedAttempt) -> None:
        """Write how an attempt ended that is not the trial's end."""
        self._store.add_attempt(plan, attempt)
        self._forget(plan.number)

    def summarise(self, plan: TrialPlan) -> Mapping[str, Cell]:
        """Return what the trial's hardware log says, of all its attempts; nothing where that cannot be told."""
        path = self._workspace.hardware_log(self._study, plan.number, plan.phase)
        try:
            return describe_trial(path, self._grid_g_per_kwh)
        except Exception as error:  # noqa: BLE001  (figures about a trial are worth less than the trial)
            _logger.warning("hardware log: trial %d has no summary: %s", plan.number, error)
            return {}

    def record_untrained(self, plan: TrialPlan, result: TrialResult) -> None:
        """Write a trial that ended when it was proposed; there is no hardware log of it."""
        self._store.start(plan)
        self._store.finish(plan.phase, result)

    def fill_in(self, sample: HardwareSample) -> HardwareSample:
        """Return the row with the numbers of trials that run on its trial's GPUs and cores now, this one included."""
        counts = {"trials_on_gpu": 1, "trials_on_cores": 1}
        if mine := self._slots.get(sample.number):
            gpus, cores = frozenset(mine.gpu_ids), frozenset(mine.cpu_ids)
            others = [slot for number, slot in self._slots.items() if number != sample.number]
            counts["trials_on_gpu"] += sum(not gpus.isdisjoint(slot.gpu_ids) for slot in others)
            neighbours = [frozenset(slot.cpu_ids) for slot in others if slot.host == mine.host]
            counts["trials_on_cores"] += sum(not (cores and their) or bool(cores & their) for their in neighbours)
        return replace(sample, row={**sample.row, **counts})

    def record(self, event: Event) -> None:
        """Write the event; events of a trial that is not running here are dropped."""
        if isinstance(event, Decision):
            self.note(event)
        elif plan := self._plans.get(event.number):
            if isinstance(event, EpochRecord):
                self._store.record(plan.phase, event)
            elif isinstance(event, HardwareSample):
                self._append_row(event)
            elif isinstance(event, TrialResult):
                self._finish(plan.phase, event)

    def _append_row(self, sample: HardwareSample) -> None:
        try:
            log = self._logs[sample.number]
            if not log.has_columns(sample.row):  # of the cores of another machine than this
                log.close()
                plan = self._plans[sample.number]
                path = self._workspace.hardware_log(self._study, plan.number, plan.phase)
                log = self._logs[sample.number] = HardwareLog(
                    path, list(dict.fromkeys([*column_names(0), *sample.row]))
                )
            log.append(sample.row)
        except MloptimizerError as error:  # a full disk costs rows, not the search
            if sample.number not in self._told:
                self._told.add(sample.number)
                _logger.warning("hardware log: %s Rows are lost meanwhile.", error)

    def _finish(self, phase: Phase, result: TrialResult) -> None:
        self._store.finish(phase, result, self._choices.get(result.number))
        self._forget(result.number)

    def _forget(self, number: int) -> None:
        del self._plans[number], self._slots[number]
        self._choices.pop(number, None)
        self._activity.end(number)
        self._told.discard(number)
        if log := self._logs.pop(number, None):
            log.close()

    def note(self, decision: Decision) -> None:
        """Append the automatic choice and its reason to `debug_strategy.log`."""
        if decision.number in self._choices:
            self._choices[decision.number][decision.topic] = decision.choice
        who = "driver" if decision.number is None else f"trial {decision.number}"
        line = f"{utc_now('seconds')}  {self._study}  {who}  {decision.topic}: {decision.choice}  ({decision.reason})"
        append_line(self._workspace.strategy_log, line.replace("\n", " "))
