"""What runs on a node: an actor that holds the GPUs and cores of one slot, and a process per attempt of a trial in it.

The actor is a thin parent: `ProcessEngine` forks each attempt from a server that has imported TensorFlow once, so that
engine's guarantees hold on every node: an attempt's processes end with the actor, whatever ends it, a tree is killed in
one stroke, and a slot waits for its GPU memory. The trial works in a folder of the node; reports carry what is new.
"""

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray

import mloptimizer
from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.events import Decision, Event, HardwareSample, RunTrial, SignOfLife
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult, failed
from mloptimizer.core.system_errors import DISK_FULL
from mloptimizer.core.trial_files import CHECKPOINTS, WORKER_LOG
from mloptimizer.engines.process.process_engine import ProcessEngine, StartMethod
from mloptimizer.engines.ray.node_data import find_dataset, keep_dataset, own_folder, shared_folder
from mloptimizer.engines.ray.parcels import Outbox, Parcel, Tail, list_files, pack, unpack
from mloptimizer.engines.ray.remote import RemoteFolder, open_remote
from mloptimizer.engines.ray.shapes import Need
from mloptimizer.hardware.read.machine import available_memory_mb, list_cpus
from mloptimizer.hardware.read.nvml import list_gpus

NOTHING = -1  # the token of no attempt
INITIAL = "initial"  # folder of the weights that a trial starts from
POLL_SECONDS = 5.0  # how long a call waits for something to report
_GATHER_SECONDS = 1.0  # within which events that are not urgent are collected
_LOG_BYTES = 2**20  # of the worker's log in one report
_CORES_BORROWED = 2  # a trial may use this many times its cores while others are idle
_UNURGENT = (SignOfLife, HardwareSample)


@dataclass(frozen=True)
class AgentFacts:
    """Where an actor runs, and its slot."""

    slot: Slot
    node: str  # Ray's id of it
    version: str  # of mloptimizer
    auth_mode: str  # how Ray authenticates there


@dataclass(frozen=True)
class Started:
    """How an attempt began: it runs, or the driver must send the data set, or it has failed already."""

    needs_data: bool = False
    failure: TrialResult | None = None


@dataclass(frozen=True)
class Report:
    """What is new about an attempt; its token is the fence: a driver drops reports that are not current."""

    token: int
    events: tuple[Event, ...]
    files: Parcel  # of its folder, by name
    checkpoints: tuple[str, ...] | None  # the names of all that exist; None: they are kept elsewhere
    log: bytes  # to append to the worker's log
    is_idle: bool  # another trial can start


class SlotAgent:
    """The actor of one slot; the driver calls `step` repeatedly while a trial runs, `stop` and `kill` beside it."""

    def __init__(self, run_trial: RunTrial, start_method: StartMethod, preload: Sequence[str], need: Need) -> None:
        """Take the slot; `need` is what Ray has reserved for this actor."""
        vars(sys.modules["__main__"]).pop("__file__", None)  # the trials' processes must not run Ray's main program
        node, auth_mode = ray.get_runtime_context().get_node_id(), os.environ.get("RAY_AUTH_MODE", "")
        self._facts = AgentFacts(_find_slot(need), node, mloptimizer.__version__, auth_mode)
        self._keeping = contextlib.ExitStack()
        self._home = self._keeping.enter_context(own_folder())
        self._engine = ProcessEngine([self._facts.slot], run_trial, start_method, preload)
        self._plan: TrialPlan | None = None  # as it runs here
        self._remote: RemoteFolder | None = None
        self._token = self._stopped = self._killed = NOTHING  # of the running attempt, and of those asked to end

    def describe(self) -> AgentFacts:
        return self._facts

    def start(self, token: int, plan: TrialPlan, files: Parcel, data: Parcel | None) -> Started:
        """Begin an attempt.

        Args:
            token: identifies the attempt in all later calls; no other attempt has it.
            files: its checkpoints, and the weights to start from.
            data: the decoded data set, if this node asked for it.
        """
        try:
            dataset = find_dataset(plan.dataset) if data is None else keep_dataset(plan.dataset, data)
            if dataset is None:
                return Started(needs_data=True)
            folder = self._home / f"{Path(plan.directory).name}_{plan.attempt}"
            unpack(files, folder)
            self._remote = open_remote(plan) if plan.settings.checkpoint_url else None
            if self._remote and plan.resumes:
                self._remote.fetch(folder / CHECKPOINTS)
            self._plan = replace(
                plan,
                dataset=dataset,
                directory=str(folder),
                initial_weights=plan.initial_weights and str(folder / INITIAL / Path(plan.initial_weights).name),
                cache_directory=plan.cache_directory and str(shared_folder(plan.study)),
            )
            self._outbox, self._log = Outbox(folder, CHECKPOINTS), Tail(folder / WORKER_LOG)
            self._token = token
            self._engine.start(self._plan, self._facts.slot)
            self._obey()
        except (MloptimizerError, OSError) as error:
            self._plan, self._token = None, NOTHING
            cause = error if isinstance(error, OSError) else error.__cause__
            is_full = isinstance(cause, OSError) and cause.errno in DISK_FULL
            kind = FailureKind.DISK_FULL if is_full else FailureKind.DATA_ERROR
            return Started(failure=failed(plan.number, kind, f"{socket.gethostname()}: {error}"))
        return Started()

    def step(self, token: int) -> Report:
        """Wait until something is new about the attempt, and return it; its last report has the result."""
        plan = self._plan
        mine = (None, plan.number) if plan else (None,)
        events = [event for event in self._gather() if event.number in mine]
        if plan is None or token != self._token:  # it has ended, and the driver waits only for the slot
            return Report(token, (), {}, None, b"", bool(self._engine.idle_slots()))
        files, kept = self._take_checkpoints(events)
        result = events[-1] if events else None
        if isinstance(result, TrialResult):
            folder = Path(plan.directory)
            skipped = (CHECKPOINTS, INITIAL, WORKER_LOG)
            files |= {name: path for name, path in list_files(folder).items() if name.split("/")[0] not in skipped}
            events[-1], log = _place_weights(result, folder), self._log.take_last(_LOG_BYTES)
            parcel = pack(files)
            self._clear(result)
        else:
            parcel, log = pack(files), self._log.take(_LOG_BYTES)
        return Report(token, tuple(events), parcel, kept, log, bool(self._engine.idle_slots()))

    def _gather(self) -> list[Event]:
        events, until = list(self._engine.wait(POLL_SECONDS)), time.monotonic() + _GATHER_SECONDS
        while events and all(isinstance(event, _UNURGENT) for event in events):
            if (left := until - time.monotonic()) <= 0:
                break
            events += self._engine.wait(left)
        return events

    def _take_checkpoints(self, events: list[Event]) -> tuple[dict[str, Path], tuple[str, ...] | None]:
        """Return the new checkpoints and the names of all, or copy them to where they are kept."""
        new, names = self._outbox.take()
        if self._remote is None:
            return dict(new), names
        try:
            if new:
                self._remote.keep(new.values(), [Path(name).name for name in names])
        except MloptimizerError as error:  # the training continues, as when a checkpoint cannot be written
            events.insert(0, Decision(self._plan.number if self._plan else None, "checkpoint", "not kept", str(error)))
        return {}, None

    def _clear(self, result: TrialResult) -> None:
        """Forget the attempt; a completed trial needs its checkpoints no more."""
        if self._remote and result.outcome is Outcome.COMPLETED:
            with contextlib.suppress(MloptimizerError):
                self._remote.remove_attempts()
        if self._plan:
            shutil.rmtree(self._plan.directory, ignore_errors=True)
        self._plan, self._token = None, NOTHING

    def stop(self, token: int) -> None:
        """Ask the attempt to end at its next step, even if it is just starting."""
        self._stopped = token
        self._obey()

    def kill(self, token: int) -> None:
        """Kill the attempt's processes at once, even if it is just starting."""
        self._killed = token
        self._obey()

    def _obey(self) -> None:
        """Apply what was asked of the running attempt; `start` and `stop` may arrive at the same moment."""
        plan, token = self._plan, self._token
        if plan is None or token == NOTHING:
            return
        with contextlib.suppress(KeyError):  # it has just ended
            if token == self._stopped:
                self._engine.stop_trial(plan.number)
            if token == self._killed:
                self._engine.kill_trial(plan.number)

    def leave(self) -> None:
        """End what runs and remove its files; the actor cannot be used afterwards."""
        self._engine.close()
        self._keeping.close()


def _find_slot(need: Need) -> Slot:
    """Return the slot with the GPUs that Ray has given to this process; without any, hide all GPUs from it."""
    host, context, cores = socket.gethostname(), ray.get_runtime_context(), len(list_cpus())
    share_mb = int(available_memory_mb() * min(need.cpus / cores, 1))
    threads = min(cores, max(1, int(_CORES_BORROWED * need.cpus)))
    slot = Slot(f"{host}/{context.get_actor_id()[:8]}", host, threads=threads, memory_mb=max(need.memory_mb, share_mb))
    gpus = list_gpus() if need.gpus else []
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # Ray does not set it for an actor without a GPU
        return slot
    name = f"{host}/gpu{'+'.join(str(gpu.index) for gpu in gpus)}"
    smallest = int(min(gpu.memory_mb for gpu in gpus))
    return replace(slot, name=name, gpu_ids=tuple(gpu.uuid for gpu in gpus), gpu_memory_mb=smallest)


def _place_weights(result: TrialResult, folder: Path) -> TrialResult:
    """Return the result with its weights named relative to the trial's folder."""
    path = Path(result.weights)
    return replace(result, weights=path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else result
