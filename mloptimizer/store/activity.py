"""Keeps `running.json` of a study: what the current search is running, for those who watch it.

The file is written whole when trials have started or ended, and removed when the search ends normally. If no driver
holds the study's lock, a kill left it. Nothing here raises or waits: on a full disk the file is missing.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.events import EndedAttempt
from mloptimizer.core.files import whole_file
from mloptimizer.core.listener import Listener, Progress
from mloptimizer.core.nouns import Slot, TrialPlan, TrialResult
from mloptimizer.core.words import utc_now
from mloptimizer.hardware.read.machine_facts import host_name, slot_facts

_logger = logging.getLogger(__name__)


class Activity(Listener):
    """What one run of a search is running, and its file, which is first written when there are slots."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since = utc_now()
        self._slots: Sequence[Slot] = ()
        self._trials: dict[int, dict[str, Any]] = {}
        self._paused = ""  # since when; empty: it runs
        self._is_written = True
        self._warned = False

    def slots_given(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._is_written = False
        self.turn_ended()

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        self._trials[plan.number] = {
            "number": plan.number,
            "phase": plan.phase.value,
            "space": plan.space,
            "slot": slot.name,
            "attempt": plan.attempt,
            "epochs": plan.epochs,
            "since_utc": utc_now(),
        }
        self._is_written = False
        if len(self._trials) == 1:  # the first process may take minutes to start, and blocks the loop meanwhile
            self.turn_ended()

    def attempt_ended(self, plan: TrialPlan, attempt: EndedAttempt, reason: str) -> None:
        self._forget(plan.number)

    def trial_ended(self, plan: TrialPlan, result: TrialResult) -> None:
        self._forget(plan.number)

    def _forget(self, number: int) -> None:
        if self._trials.pop(number, None):
            self._is_written = False

    def progress(self, progress: Progress) -> None:
        if progress.paused != bool(self._paused):
            self._paused = utc_now() if progress.paused else ""
            self._is_written = False

    def search_ended(self) -> None:
        """Remove the file."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _logger.debug("%s: %s", self._path, error)

    def turn_ended(self) -> None:
        """Write the file if anything has changed: once for many trials that start or end together."""
        if self._is_written:
            return
        self._is_written = True
        facts = {
            "pid": os.getpid(),
            "host": host_name(),
            "since_utc": self._since,
            "updated_utc": utc_now(),
            "paused_utc": self._paused,
            "slots": [slot_facts(slot) for slot in self._slots],
            "trials": list(self._trials.values()),
        }
        try:
            with whole_file(self._path) as file:
                file.write(json.dumps(facts, ensure_ascii=False).encode() + b"\n")
        except MloptimizerError as error:
            self.search_ended()  # no file is better than one that lists ended trials
            if not self._warned:
                self._warned = True
                _logger.warning("%s Until this is fixed, `mloptimizer top` shows less.", error)
