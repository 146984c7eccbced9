"""Writes every event of a search to its file: epochs and results, hardware rows, automatic choices."""

import logging
from collections.abc import Mapping

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.events import Decision, EndedAttempt, EpochRecord, HardwareSample
from mloptimizer.core.files import append_line, write_readme
from mloptimizer.core.listener import Listener
from mloptimizer.core.nouns import Slot, TrialPlan, TrialResult
from mloptimizer.core.words import utc_now
from mloptimizer.hardware.analysis.diagnosis import describe_trial, present_values
from mloptimizer.hardware.columns import Cell
from mloptimizer.hardware.log.writer import HardwareLog
from mloptimizer.hardware.read.machine import list_cpus
from mloptimizer.hardware.read.reader import column_names, render_log_readme
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.workspace import Workspace

_logger = logging.getLogger(__name__)


class Recorder(Listener):
    """The one writer of a study's records."""

    def __init__(self, workspace: Workspace, study: str, store: MetricsStore) -> None:
        self._workspace = workspace
        self._study = study
        self._store = store
        self._plans: dict[int, TrialPlan] = {}  # of running trials
        self._logs: dict[int, HardwareLog] = {}
        self._warned: set[int] = set()  # trials with lost rows
        self._choices: dict[int, dict[str, str]] = {}  # made automatically, by trial and topic

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        """Write the plan and open the trial's hardware log; earlier files are replaced unless the plan resumes them."""
        self._plans[plan.number], self._choices[plan.number] = plan, {}
        self._store.start(plan, slot)
        write_readme(self._workspace.hardware_logs / "README.md", render_log_readme())
        path = self._workspace.hardware_log(self._study, plan.number, plan.phase)
        if not plan.resumes:
            path.unlink(missing_ok=True)
        self._logs[plan.number] = HardwareLog(path, column_names(len(slot.gpu_ids), slot.cpu_ids or list_cpus()))

    def epoch_ended(self, plan: TrialPlan, record: EpochRecord) -> None:
        self._store.record(plan.phase, record)

    def hardware_sampled(self, plan: TrialPlan, sample: HardwareSample) -> None:
        """Append the row; a full disk loses rows, not the search."""
        try:
            log = self._logs[plan.number]
            if not log.has_columns(sample.row):  # of the cores of another machine
                log.close()
                path = self._workspace.hardware_log(self._study, plan.number, plan.phase)
                log = self._logs[plan.number] = HardwareLog(path, list(dict.fromkeys([*column_names(0), *sample.row])))
            log.append(sample.row)
        except MloptimizerError as error:
            if plan.number not in self._warned:
                self._warned.add(plan.number)
                _logger.warning("hardware log: %s Rows are lost until this is fixed.", error)

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        self._store.add_attempt(plan, attempt)
        self._forget(plan.number)

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        """Write the result; a trial that was refused when it was proposed has no plan yet, and no log."""
        if plan.number not in self._plans:
            self._store.start(plan)
        self._store.finish(plan.phase, result, self._choices.get(plan.number))
        self._forget(plan.number)

    def _forget(self, number: int) -> None:
        self._plans.pop(number, None)
        self._choices.pop(number, None)
        self._warned.discard(number)
        if log := self._logs.pop(number, None):
            log.close()

    def summarise(self, grid_g_per_kwh: float, plan: TrialPlan) -> Mapping[str, Cell]:
        """Return the summary of the trial's hardware log, of all its attempts; empty if it cannot be read.

        Args:
            grid_g_per_kwh: emissions of the grid, g of CO2 per kWh.
        """
        path = self._workspace.hardware_log(plan.study, plan.number, plan.phase)
        try:
            present = present_values(plan.settings.model_dump(), self._choices.get(plan.number, {}))
            return describe_trial(path, grid_g_per_kwh, present=present)
        except Exception as error:  # noqa: BLE001  (a summary must not cost the trial)
            _logger.warning("hardware log: trial %d has no summary: %s", plan.number, error)
            return {}

    def search_ended(self) -> None:
        for log in self._logs.values():
            log.close()

    def decided(self, decision: Decision) -> None:
        """Append the automatic choice and its reason to `debug_strategy.log`."""
        if decision.number in self._choices:
            self._choices[decision.number][decision.topic] = decision.choice
        who = "driver" if decision.number is None else f"trial {decision.number}"
        line = f"{utc_now('seconds')}  {self._study}  {who}  {decision.topic}: {decision.choice}  ({decision.reason})"
        append_line(self._workspace.strategy_log, line.replace("\n", " "))
