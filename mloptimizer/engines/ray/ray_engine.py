"""Runs each attempt of a trial on a slot that Ray has found somewhere in the cluster.

The driver pulls reports from the actors and writes what they carry, so workers need no database and no shared disk.
Reports are fenced: each belongs to one attempt, and the driver ignores a node that was cut off and keeps training. The
engine learns of lost nodes through Ray; the search loop detects hangs.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.events import Event
from mloptimizer.core.files import append_bytes
from mloptimizer.core.nouns import FailureKind, Outcome, Slot, TrialPlan, TrialResult, failed
from mloptimizer.core.trial_files import CHECKPOINTS, RESULT, WORKER_LOG
from mloptimizer.engines.ray.agent import INITIAL, NOTHING, Report, Started
from mloptimizer.engines.ray.agents import Agent, Agents
from mloptimizer.engines.ray.node_data import pack_dataset
from mloptimizer.engines.ray.parcels import Parcel, list_files, pack, remove_others, unpack
from mloptimizer.engines.ray.ray_failures import explain
from mloptimizer.engines.ray.remote import open_remote

_KILL_SECONDS = 5.0  # that a worker has to kill a trial's processes before Ray kills the worker
_CLOSE_SECONDS = 10.0
_tokens = itertools.count()


@dataclass
class _Attempt:
    plan: TrialPlan
    agent: Agent
    token: int  # no two attempts have the same
    call: Any  # reference to the pending answer
    is_leaving: bool = False  # asked to stop because its node leaves
    killed_at: float = math.inf


class RayEngine:
    """An `Engine` on the actors of a cluster.

    Args:
        agents: the actors, which stay when the engine closes.
        show: takes all slots, idle or not, whenever they have changed.
    """

    def __init__(self, agents: Agents, show: Callable[[Sequence[Slot]], None] | None = None) -> None:
        self._agents, self._show = agents, show
        self._shown: list[Slot] | None = None
        self._attempts: dict[int, _Attempt] = {}
        self._seen: dict[int, TrialPlan] = {}  # with checkpoints at a URL
        self._short: set[int] = set()  # trials whose last attempt ran out of memory
        self._data: dict[str, Any] = {}  # references to the data sets sent so far, by fingerprint

    # Slots

    def idle_slots(self) -> Sequence[Slot]:
        """Return the slots on which a trial can start: those with little GPU memory first, so that others stay free.

        While a trial that ran out of memory waits to start again, which the loop does next, the largest come first.
        """
        leaving = self._agents.tend([attempt.agent for attempt in self._attempts.values()])
        for attempt in self._attempts.values():
            if attempt.agent.facts and attempt.agent.facts.node in leaving and not attempt.is_leaving:
                attempt.is_leaving = True
                self.stop_trial(attempt.plan.number)
        slots = [agent.slot for agent in self._agents.ready()]
        if self._show and slots != self._shown:
            self._shown = slots
            self._show(slots)
        idle = [agent.slot for agent in self._idle()]
        return sorted(idle, key=lambda slot: slot.gpu_memory_mb, reverse=bool(self._short))

    def _idle(self) -> list[Agent]:
        busy = [attempt.agent for attempt in self._attempts.values()]
        return [agent for agent in self._agents.ready() if agent not in busy and not agent.is_releasing]

    def releasing(self) -> bool:
        """Return whether no slot is idle but one will be: its worker is starting, or its GPU memory is not yet free."""
        return not self._idle() and len(self._agents.all) > len(self._attempts)

    def start(self, plan: TrialPlan, slot: Slot) -> None:
        """Send the plan, with its checkpoints and the weights to start from."""
        if plan.settings.storage:
            raise ValueError("a plan with a storage URL, which may hold a password, must not be sent")
        agent = next(agent for agent in self._idle() if agent.slot == slot)
        Path(plan.directory, WORKER_LOG).unlink(missing_ok=True)
        if plan.settings.checkpoint_url:
            self._seen[plan.number] = plan
        if plan.number not in self._short:
            self._short.clear()  # such trials come first, so none is left
        self._short.discard(plan.number)
        token = next(_tokens)
        call = agent.actor.start.remote(token, plan, _files_of(plan), None)
        self._attempts[plan.number] = _Attempt(plan, agent, token, call)

    # What comes back

    def wait(self, timeout: float) -> list[Event]:
        """Return what happened since the last call, waiting at most `timeout` seconds.

        It also returns when another slot can be used.
        """
        deadline, events = time.monotonic() + timeout, list[Event]()
        while True:
            left = max(0.0, deadline - time.monotonic())
            handlers = self._handlers()
            ready = _wait_for(list(handlers), left)
            for call in ready:
                events += handlers[call]() or ()
            events += self._end_unresponsive()
            if ready or events or not left:
                return events

    def _handlers(self) -> dict[Any, Callable[[], list[Event] | None]]:
        """Return what to do with each pending answer."""
        handlers: dict[Any, Callable[[], list[Event] | None]] = {}
        for agent in self._agents.all:
            if agent.facts is None:
                handlers[agent.described] = partial(self._agents.welcome, agent)
            elif agent.is_releasing:
                handlers[agent.described] = partial(self._release, agent)
        for attempt in self._attempts.values():
            handlers[attempt.call] = partial(self._receive, attempt)
        return handlers

    def _receive(self, attempt: _Attempt) -> list[Event]:
        plan, agent = attempt.plan, attempt.agent
        if self._attempts.get(plan.number) is not attempt:
            return []
        try:
            answer = ray.get(attempt.call)
        except RayError as error:
            return self._lose(attempt, *explain(error))
        if isinstance(answer, Started):
            if answer.failure:
                return self._end(attempt, answer.failure)
            if answer.needs_data:  # the object store brings it to a node once
                if (key := plan.dataset.fingerprint) not in self._data:
                    self._data[key] = ray.put(pack_dataset(plan.dataset))
                attempt.call = agent.actor.start.remote(attempt.token, plan, _files_of(plan), self._data[key])
                return []
        elif answer.token == attempt.token:
            return self._take(attempt, answer)
        attempt.call = agent.actor.step.remote(attempt.token)
        return []

    def _take(self, attempt: _Attempt, report: Report) -> list[Event]:
        """Write what the report carries, and return its events; the files come first, as the events rely on them."""
        plan, agent, folder = attempt.plan, attempt.agent, Path(attempt.plan.directory)
        try:
            unpack(report.files, folder)
            if report.checkpoints is not None:
                remove_others(folder, CHECKPOINTS, report.checkpoints)
            if report.log:
                folder.mkdir(parents=True, exist_ok=True)
                append_bytes(folder / WORKER_LOG, report.log)
        except (MloptimizerError, OSError) as error:
            return self._lose(attempt, FailureKind.DISK_FULL, f"the driver cannot write what the worker sent: {error}")
        result = report.events[-1] if report.events else None
        if not isinstance(result, TrialResult):
            attempt.call = agent.actor.step.remote(attempt.token)
            return list(report.events)
        agent.is_releasing = not report.is_idle
        if agent.is_releasing:
            agent.described = agent.actor.step.remote(attempt.token)
        result = _with_weights(result, plan)
        if attempt.is_leaving and result.outcome is Outcome.PRUNED:
            message = f"its node {agent.slot.host} is about to leave the cluster"
            result = failed(plan.number, FailureKind.LOST_WORKER, message, result.seconds)
        return [*report.events[:-1], *self._end(attempt, result)]

    def _end(self, attempt: _Attempt, result: TrialResult) -> list[Event]:
        del self._attempts[attempt.plan.number]
        if result.failure and result.failure.kind is FailureKind.OUT_OF_MEMORY:
            self._short.add(result.number)
        if attempt.is_leaving:
            self._agents.discard(attempt.agent)  # or the trial would get the same slot again
        else:
            self._agents.judge(attempt.agent, result.failure.kind if result.failure else None)
        return [result]

    def _lose(self, attempt: _Attempt, kind: FailureKind, message: str) -> list[Event]:
        """Give up the attempt with its actor: what that sends from now on belongs to no attempt."""
        self._agents.discard(attempt.agent)
        return self._end(attempt, failed(attempt.plan.number, kind, f"{attempt.agent.slot.host}: {message}"))

    def _release(self, agent: Agent) -> None:
        try:
            agent.is_releasing = not ray.get(agent.described).is_idle
            if agent.is_releasing:
                agent.described = agent.actor.step.remote(NOTHING)
        except RayError:
            self._agents.discard(agent)

    # Ends

    def stop_trial(self, number: int) -> None:
        if attempt := self._attempts.get(number):
            attempt.agent.actor.stop.remote(attempt.token)

    def kill_trial(self, number: int) -> None:
        """Kill the trial's processes; a worker that does not answer is killed too: its node may be cut off."""
        if (attempt := self._attempts.get(number)) and attempt.killed_at == math.inf:
            attempt.killed_at = time.monotonic()
            attempt.agent.actor.kill.remote(attempt.token)

    def _end_unresponsive(self) -> list[Event]:
        events: list[Event] = []
        for attempt in list(self._attempts.values()):
            if time.monotonic() > attempt.killed_at + _KILL_SECONDS:
                events += self._lose(attempt, FailureKind.LOST_WORKER, "its worker did not answer when asked to end")
        return events

    def close(self) -> None:
        """End every trial; actors that answer stay for the next engine."""
        for number in self._attempts:
            self.kill_trial(number)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while self._attempts and time.monotonic() < deadline:
            self.wait(0.5)
        for attempt in self._attempts.values():
            self._agents.discard(attempt.agent)
        self._attempts.clear()
        for plan in self._seen.values():
            if Path(plan.directory, RESULT).is_file():
                with suppress(MloptimizerError):  # what stays only takes space
                    open_remote(plan).remove()
        self._seen.clear()


def _wait_for(calls: list[Any], timeout: float) -> list[Any]:
    if not calls:
        time.sleep(timeout)
        return []
    ray.wait(calls, timeout=timeout)  # for the first; others may be ready too
    return list(ray.wait(calls, num_returns=len(calls), timeout=0)[0])


def _files_of(plan: TrialPlan) -> Parcel:
    """Return the files with which the plan's attempt begins."""
    files = list_files(Path(plan.directory), CHECKPOINTS) if plan.resumes else {}  # empty if they are kept elsewhere
    if plan.initial_weights:
        files[f"{INITIAL}/{Path(plan.initial_weights).name}"] = Path(plan.initial_weights)
    return pack(files)


def _with_weights(result: TrialResult, plan: TrialPlan) -> TrialResult:
    """Return the result with the path of its weights on this machine."""
    if result.weights.startswith(f"{INITIAL}/"):
        return replace(result, weights=plan.initial_weights)
    return replace(result, weights=str(Path(plan.directory) / result.weights)) if result.weights else result
