"""What a worker's process does around its trial: it keeps its output, obeys the driver, and ends with it."""

import os
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from mloptimizer.core.events import Event, RunTrial
from mloptimizer.core.nouns import Slot, TrialPlan
from mloptimizer.core.system_errors import DISK_FULL
from mloptimizer.core.trial_files import WORKER_LOG
from mloptimizer.engines.process.lifeline import end_group, end_with_writer, lead_group


def serve(connection: Connection, lifeline: Connection, run_trial: RunTrial, plan: TrialPlan, slot: Slot) -> None:
    """Run one trial in this process, and end the process.

    Args:
        connection: takes the trial's events, and brings the request to stop it.
        lifeline: the reading end of a pipe that stays open while the driver wants this process to live.
    """
    lead_group()
    end_with_writer(lifeline)
    _redirect_output(Path(plan.directory) / WORKER_LOG)
    stop, sending = threading.Event(), threading.Lock()
    threading.Thread(target=_obey, args=(connection, stop), daemon=True).start()

    def emit(event: Event) -> None:
        with sending:
            connection.send(event)

    emit(run_trial(plan, slot, emit, stop.is_set))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # TensorFlow's threads would take up to a second to end


def _obey(connection: Connection, stop: threading.Event) -> None:
    """Set `stop` on request; end this process and its children when the driver is gone."""
    try:
        while True:
            connection.recv()
            stop.set()
    except (EOFError, OSError):
        end_group()


def _redirect_output(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        log = os.open(os.devnull, os.O_WRONLY)  # the trial may finish before it has to write
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
