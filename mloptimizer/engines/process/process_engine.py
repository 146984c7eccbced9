"""Runs each trial in its own process on this machine, forked from a server that has imported TensorFlow.

A fresh process per trial keeps memory from growing, and one trial's death cannot affect another. The fork server makes
it cheap: a trial starts in about a second instead of the ten that importing TensorFlow takes.
"""

import contextlib
import multiprocessing.connection
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Literal

from mloptimizer.core.errors import RunError
from mloptimizer.core.events import Decision, Event, RunTrial
from mloptimizer.core.import_path import guard_children
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult
from mloptimizer.engines.gpu_memory import GpuClaim, GpuMemory
from mloptimizer.engines.process.child import serve
from mloptimizer.engines.process.cores import lend_cores, pin
from mloptimizer.engines.process.deaths import describe_exit, explain_death
from mloptimizer.engines.process.fork_server import interrupts_ignored, start_fork_server
from mloptimizer.engines.process.process_trees import ProcessTree
from mloptimizer.hardware.read.main_memory import count_oom_kills

_EXIT_SECONDS = 10.0  # a worker that still runs this long after it sent its result is killed
_CODE_SECONDS = 1.0  # how long to wait for the exit code of a process that is gone
_UNKNOWN_CODE = 255  # what multiprocessing reports for a forked process whose fork server is gone
_RELEASE_PAUSE_SECONDS = 0.05  # between two checks whether GPU memory is free
_SERVER_SECONDS, _SERVER_PAUSE_SECONDS = 10.0, 0.05  # how long, and how often, to try to replace a dead fork server
_SERVER_LIVES, _LIVED_SECONDS = 6, 1.0  # how many servers that lived longer than this may die one after the other

StartMethod = Literal["auto", "forkserver", "spawn"]
_Launched = tuple[BaseProcess, Connection, Connection]


@dataclass
class _Worker:
    plan: TrialPlan
    slot: Slot
    process: BaseProcess
    tree: ProcessTree
    connection: Connection
    lifeline: Connection  # the writing end: the worker ends when it is closed
    claim: GpuClaim
    forked: bool
    oom_kills: int  # the kernel's count at the start
    is_killed: bool = False  # by `kill_trial`

    def exit_code(self) -> int | None:
        code = self.process.exitcode
        return None if self.forked and code == _UNKNOWN_CODE else code

    def kill(self) -> None:
        """Kill the worker and all that it started, and release what this process holds of it."""
        self.tree.kill()
        self.tree.wait(_EXIT_SECONDS)
        self.process.join(_CODE_SECONDS)
        _close(self.connection, self.lifeline)


class ProcessEngine:
    """An `Engine` of processes; a worker ends, with all that it started, when this process is gone.

    Args:
        slots: where trials run; one process at a time on each.
        run_trial: a function at the top level of a module, so that another process can import it.
        start_method: ``auto`` forks from a server, and falls back to spawning if the first forked worker dies before
            it sends anything (CUDA and some libraries do not survive a fork).
        preload: modules that the fork server imports once.
        count_oom_kills: returns how many processes the kernel has killed because memory ran out.
        gpu_memory: reports when a slot's GPUs are free again after a worker; default: asks NVML.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        run_trial: RunTrial,
        start_method: StartMethod = "auto",
        preload: Sequence[str] = (),
        count_oom_kills: Callable[[], int] = count_oom_kills,
        gpu_memory: GpuMemory | None = None,
    ) -> None:
        self._slots = tuple(slots)
        self._run_trial = run_trial
        self._preload = preload
        self._count_oom_kills = count_oom_kills
        self._gpu_memory = gpu_memory or GpuMemory()
        self._may_fall_back = start_method == "auto"
        self._fork_server = start_method != "spawn" and "forkserver" in multiprocessing.get_all_start_methods()
        self._fork_proven = False  # whether a forked worker has ever sent anything
        self._workers: dict[int, _Worker] = {}
        self._claims: dict[str, GpuClaim] = {}  # by slot: of workers that are gone while their memory is not yet free
        self._notes: list[Event] = []
        self._lent = False  # whether workers run on the cores of idle slots
        if self._fork_server:
            start_fork_server(preload)

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots where no worker lives and whose GPU memory is free again, or overdue."""
        self._release_slots()
        return [slot for slot in self._vacant_slots() if slot.name not in self._claims]

    def releasing(self) -> bool:
        return bool(self._claims)

    def _vacant_slots(self) -> list[Slot]:
        busy = {worker.slot.name for worker in self._workers.values()}
        return [slot for slot in self._slots if slot.name not in busy]

    def _release_slots(self) -> bool:
        """Release slots whose GPU memory is free, or is overdue; return whether there was one."""
        claims = list(self._claims.values())
        for claim in claims:
            if claim.is_free():
                del self._claims[claim.slot.name]
            elif claim.is_overdue():
                self._notes.append(claim.explain())
                del self._claims[claim.slot.name]
        return len(self._claims) < len(claims)

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Start a worker; the very first one waits for the fork server's imports."""
        for worker in self._workers.values() if self._lent else ():  # takes the lent cores back
            pin(worker.process.pid, worker.slot.cpu_ids)
        self._lent = False
        self._claims.pop(slot.name, None)
        claim, oom_kills = self._gpu_memory.claim(slot), self._count_oom_kills()
        spawn = multiprocessing.get_context("spawn")
        launched = self._fork(plan, slot) if self._fork_server else self._launch(spawn, plan, slot)
        process, connection, lifeline = launched
        tree = ProcessTree(process.pid or 0)
        pin(process.pid, slot.cpu_ids)
        self._workers[plan.number] = _Worker(
            plan, slot, process, tree, connection, lifeline, claim, self._fork_server, oom_kills
        )

    def _fork(self, plan: TrialPlan, slot: Slot) -> _Launched:
        """Fork a worker; a server that was killed is replaced once the system reports that it is gone."""
        context, deadline, lives = multiprocessing.get_context("forkserver"), time.monotonic() + _SERVER_SECONDS, 0
        while True:
            tried = time.monotonic()
            start_fork_server(self._preload)
            try:
                return self._launch(context, plan, slot)
            except (EOFError, OSError) as error:
                now = time.monotonic()
                if now - tried > _LIVED_SECONDS and lives < _SERVER_LIVES:  # killed, not unable to start
                    lives, deadline = lives + 1, now + _SERVER_SECONDS
                elif now > deadline:
                    what = f"start_method: the fork server does not start ({error})"
                    raise RunError(f"{what}. Possible: --set start_method=spawn.") from error
                time.sleep(_SERVER_PAUSE_SECONDS)

    def _launch(self, context: ForkServerContext | SpawnContext, plan: TrialPlan, slot: Slot) -> _Launched:
        """Start a process; return it with this side's ends of its two pipes: the connection and the lifeline."""
        ours, theirs = context.Pipe()
        end_of_life, lifeline = context.Pipe(duplex=False)
        arguments = (theirs, end_of_life, self._run_trial, plan, slot)
        process = context.Process(target=serve, args=arguments, name=f"trial {plan.number}", daemon=True)
        guard_children()
        try:
            with interrupts_ignored():
                process.start()
        except (EOFError, OSError):
            _close(ours, lifeline)
            raise
        finally:
            _close(theirs, end_of_life)
        return process, ours, lifeline

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout` seconds.

        It also returns when the GPU memory of a slot becomes free.
        """
        self._lend_idle_cores()
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            events = self._receive_all(min(left, _RELEASE_PAUSE_SECONDS) if self._claims else left)
            is_released = self._release_slots()
            notes, self._notes = self._notes, []
            if events or notes or is_released or not left:
                return notes + events

    def _receive_all(self, timeout: float) -> list[Event]:
        workers = list(self._workers.values())
        # A process that a worker forked may hold its pipe open, so the pipe's end does not show that the worker ended.
        ended = [worker for worker in workers if worker.tree.has_ended()]
        may_wait = not ended and not self._notes
        ready = multiprocessing.connection.wait([w.connection for w in workers], timeout if may_wait else 0)
        events: list[Event] = []
        for worker in workers:
            if worker not in ended:
                worker.claim.watch(worker.tree.pids())
            if worker in ended or worker.connection in ready:
                events += self._receive(worker, worker in ended)
        return events

    def _lend_idle_cores(self) -> None:
        """Lend the cores of idle slots to the running trials: the caller waits, so it has no trial for those slots."""
        idle, workers = self._vacant_slots(), list(self._workers.values())
        if idle and workers and not self._lent:
            for worker, cpus in zip(workers, lend_cores([w.slot for w in workers], idle), strict=True):
                pin(worker.process.pid, cpus)
            self._lent = True

    def _receive(self, worker: _Worker, has_ended: bool) -> list[Event]:
        events: list[Event] = []
        try:
            while worker.connection.poll():
                event = worker.connection.recv()
                self._fork_proven |= worker.forked
                events.append(event)
                if isinstance(event, TrialResult):
                    self._dismiss(worker)
                    return events
            if not has_ended:
                return events
        except (EOFError, OSError):
            pass
        return events + self._bury(worker)

    def _dismiss(self, worker: _Worker) -> None:
        """Wait until the worker is gone, and end what it left behind."""
        deadline = time.monotonic() + _EXIT_SECONDS
        worker.process.join(_EXIT_SECONDS)  # returns early if the fork server is gone
        worker.tree.wait(deadline - time.monotonic())
        worker.kill()
        del self._workers[worker.plan.number]
        self._lent = False  # its cores may be lent too
        worker.claim.release(worker.tree.pids())
        if not worker.claim.is_free():
            self._claims[worker.slot.name] = worker.claim

    def _bury(self, worker: _Worker) -> list[Event]:
        self._dismiss(worker)
        number, code = worker.plan.number, worker.exit_code()
        oom_kills = 0 if worker.is_killed else self._count_oom_kills() - worker.oom_kills
        failure = explain_death(worker.plan, code, oom_kills)
        may_be_the_fork = worker.forked and self._may_fall_back and not self._fork_proven and not worker.is_killed
        if may_be_the_fork and code != -signal.SIGKILL and failure.kind is FailureKind.CRASH:
            self._fork_server = False
            reason = f"the first forked worker {describe_exit(code)} before it sent anything"
            self._notes.append(Decision(number, "start method", "spawn", reason))
            self.start(worker.plan, worker.slot)
            return []
        return [TrialResult(number, Outcome.FAILED, None, 0.0, failure=failure)]

    def stop_trial(self, number: int) -> None:
        if number in self._workers:
            with contextlib.suppress(OSError):  # it has just died: `wait` will report it
                self._workers[number].connection.send("stop")

    def kill_trial(self, number: int) -> None:
        """Kill the trial's worker and all that it started; works on what hangs, is stopped, or ignores signals."""
        if number in self._workers:
            self._workers[number].is_killed = True
            self._workers[number].tree.kill()

    def close(self) -> None:
        for worker in self._workers.values():  # all at once; then wait for each
            worker.tree.kill()
        for worker in self._workers.values():
            worker.kill()
        self._workers.clear()
        self._claims.clear()
        self._notes.clear()
        self._gpu_memory.close()


def _close(*connections: Connection) -> None:
    for connection in connections:
        connection.close()
