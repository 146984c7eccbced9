"""Runs each trial in a process of its own on this machine, forked from a server that has imported TensorFlow.

A fresh process per trial is what keeps memory from growing and one trial's death from touching another. The fork
server makes it cheap: a trial starts in about a second instead of the ten that importing TensorFlow takes.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from mloptimizer.engines.base import RunTrial
from mloptimizer.engines.cores import lend_cores, pin
from mloptimizer.engines.deaths import WORKER_LOG, describe_exit, explain_death
from mloptimizer.errors import RunError
from mloptimizer.hardware.memory import count_oom_kills
from mloptimizer.records import Decision, Event, FailureKind, Outcome, Slot, TrialPlan, TrialResult

_EXIT_SECONDS = 10.0  # a worker that has sent its result and lives on is killed after so long
_SERVER_SECONDS, _SERVER_PAUSE_SECONDS = 10.0, 0.05  # how long, and how often, a dead fork server is replaced

StartMethod = Literal["auto", "forkserver", "spawn"]


@dataclass
class _Worker:
    plan: TrialPlan
    slot: Slot
    process: BaseProcess
    connection: Connection
    forked: bool
    oom_kills: int  # the kernel's count when it was started


class ProcessEngine:
    """An `Engine` of processes; a worker ends by itself as soon as this process is gone.

    Args:
        slots: where trials run; one process at a time on each.
        run_trial: a function of a module, so that another process can import it.
        start_method: ``auto`` forks from a server, and falls back to spawning when the first forked worker dies
            before it has said anything (CUDA and some libraries do not survive a fork).
        preload: modules that the fork server imports once.
        count_oom_kills: returns how many processes the kernel has killed for want of memory.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        run_trial: RunTrial,
        start_method: StartMethod = "auto",
        preload: Sequence[str] = (),
        count_oom_kills: Callable[[], int] = count_oom_kills,
    ) -> None:
        self._slots = tuple(slots)
        self._run_trial = run_trial
        self._preload = preload
        self._count_oom_kills = count_oom_kills
        self._may_fall_back = start_method == "auto"
        self._fork_server = start_method != "spawn" and "forkserver" in multiprocessing.get_all_start_methods()
        self._fork_proven = False  # whether a forked worker has ever said anything
        self._workers: dict[int, _Worker] = {}
        self._notes: list[Event] = []
        self._lent = False  # whether workers run on the cores of idle slots
        if self._fork_server:
            start_fork_server(preload)

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots on which no worker lives."""
        busy = {worker.slot.name for worker in self._workers.values()}
        return [slot for slot in self._slots if slot.name not in busy]

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Start a worker; the very first one waits for the fork server's imports."""
        self._take_cores_back()
        oom_kills = self._count_oom_kills()
        process, connection = self._fork(plan, slot) if self._fork_server else self._spawn(plan, slot)
        self._pin(process, slot.cpu_ids)
        self._workers[plan.number] = _Worker(plan, slot, process, connection, self._fork_server, oom_kills)

    def _fork(self, plan: TrialPlan, slot: Slot) -> tuple[BaseProcess, Connection]:
        """Fork a worker; a server that was killed is replaced, as soon as the system says that it is gone."""
        context, deadline = multiprocessing.get_context("forkserver"), time.monotonic() + _SERVER_SECONDS
        while True:
            start_fork_server(self._preload)
            process, connection, theirs = self._prepare(context, plan, slot)
            try:
                process.start()
                return process, connection
            except (EOFError, OSError) as error:
                connection.close()
                if time.monotonic() > deadline:
                    raise RunError(
                        f"start_method: the fork server does not start ({error}). Possible: --set start_method=spawn."
                    ) from error
                time.sleep(_SERVER_PAUSE_SECONDS)
            finally:
                theirs.close()

    def _spawn(self, plan: TrialPlan, slot: Slot) -> tuple[BaseProcess, Connection]:
        process, connection, theirs = self._prepare(multiprocessing.get_context("spawn"), plan, slot)
        with _interrupts_ignored():
            process.start()
        theirs.close()
        return process, connection

    def _prepare(
        self, context: ForkServerContext | SpawnContext, plan: TrialPlan, slot: Slot
    ) -> tuple[BaseProcess, Connection, Connection]:
        ours, theirs = context.Pipe()
        arguments = (theirs, self._run_trial, plan, slot)
        return context.Process(target=_serve, args=arguments, name=f"trial {plan.number}", daemon=True), ours, theirs

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout` seconds."""
        self._lend_idle_cores()
        events, self._notes = self._notes, []
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        ready = multiprocessing.connection.wait(list(by_connection), 0 if events else timeout)
        for connection in ready:
            events += self._receive(by_connection[connection])  # type: ignore[index]
        return events + self._take_notes()

    def _lend_idle_cores(self) -> None:
        """Give the cores of idle slots to the running trials: whoever waits has no trial for those slots."""
        idle, workers = self.idle_slots(), list(self._workers.values())
        if idle and workers and not self._lent:
            for worker, cpus in zip(workers, lend_cores([w.slot for w in workers], idle), strict=True):
                self._pin(worker.process, cpus)
            self._lent = True

    def _take_cores_back(self) -> None:
        for worker in self._workers.values() if self._lent else ():
            self._pin(worker.process, worker.slot.cpu_ids)
        self._lent = False

    @staticmethod
    def _pin(process: BaseProcess, cpus: Sequence[int]) -> None:
        if process.pid and cpus:  # a slot without cores of its own may use all
            pin(process.pid, cpus)

    def _take_notes(self) -> list[Event]:
        notes, self._notes = self._notes, []
        return notes

    def _receive(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        try:
            while worker.connection.poll():
                event = worker.connection.recv()
                self._fork_proven |= worker.forked
                events.append(event)
                if isinstance(event, TrialResult):
                    self._dismiss(worker)
                    break
        except (EOFError, OSError):
            events += self._bury(worker)
        return events

    def _dismiss(self, worker: _Worker) -> None:
        worker.process.join(_EXIT_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()
        del self._workers[worker.plan.number]
        self._lent = False  # its cores may be lent too

    def _bury(self, worker: _Worker) -> list[Event]:
        self._dismiss(worker)
        number, code = worker.plan.number, worker.process.exitcode
        failure = explain_death(worker.plan, code, self._count_oom_kills() - worker.oom_kills)
        may_be_the_fork = worker.forked and self._may_fall_back and not self._fork_proven
        if may_be_the_fork and failure.kind is not FailureKind.OUT_OF_MEMORY:
            self._fork_server = False
            reason = f"the first forked worker {describe_exit(code)} before it said anything"
            self._notes.append(Decision(number, "start method", "spawn", reason))
            self.start(worker.plan, worker.slot)
            return []
        return [TrialResult(number, Outcome.FAILED, None, 0.0, failure=failure)]

    def stop_trial(self, number: int) -> None:
        """Ask the trial to end at its next step."""
        if number in self._workers:
            with contextlib.suppress(OSError):  # it has just died: `wait` will say so
                self._workers[number].connection.send("stop")

    def close(self) -> None:
        """Kill every worker."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()
            worker.connection.close()
        self._workers.clear()
        self._notes.clear()


def start_fork_server(preload: Sequence[str]) -> None:
    """Let the fork server begin its imports, if it is not there yet; returns at once."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
        with _interrupts_ignored(), _errors_muted():
            multiprocessing.forkserver.ensure_running()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that are started here never hear Ctrl-C: the driver alone decides when they end.

    They inherit that it is blocked. Here it waits meanwhile; to ignore it would lose it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # when it starts, it unblocks what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _errors_muted() -> Iterator[None]:
    """Let a process that is started here write its errors nowhere: importing TensorFlow prints lines that nothing
    turns off. Trial processes write to their own log, and an import that fails there fails again, and is told."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _serve(connection: Connection, run_trial: RunTrial, plan: TrialPlan, slot: Slot) -> None:
    """Run one trial in this process, and end it."""
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
    """Set `stop` when told to; end this process when the driver is gone."""
    try:
        while True:
            connection.recv()
            stop.set()
    except (EOFError, OSError):
        os._exit(1)


def _redirect_output(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
