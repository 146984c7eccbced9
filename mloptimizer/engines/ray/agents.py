"""Keeps as many actors as slots are wanted: on new nodes too, and never on those that are left out.

An actor whose resources the cluster does not have now stays pending: an autoscaler sees it as demand.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

import mloptimizer
from mloptimizer.core.errors import RunError
from mloptimizer.core.events import Decision, RunTrial
from mloptimizer.core.nouns import FailureKind, Slot
from mloptimizer.engines.process.process_engine import StartMethod
from mloptimizer.engines.ray.agent import AgentFacts, SlotAgent
from mloptimizer.engines.ray.cluster import list_nodes
from mloptimizer.engines.ray.nodes import NodeRecords
from mloptimizer.engines.ray.ray_failures import explain
from mloptimizer.engines.ray.ray_internals import list_leaving
from mloptimizer.engines.ray.shapes import Need, describe_nodes

_TEND_SECONDS = 1.0  # between two looks at the cluster
_FAILED_IN_A_ROW = 3  # failures to make an actor, with none ready, that end the search
_LONGEST_PAUSE_SECONDS = 60.0  # before the next is made, after failures in a row

Note = Callable[[Decision], None]


@dataclass
class Agent:
    """An actor, as the driver knows it."""

    actor: Any
    described: Any  # reference to its facts, or to the report that shows whether its slot is free
    facts: AgentFacts | None = None  # None: it is not ready yet
    is_releasing: bool = False  # the last trial has ended and its GPU memory is not free yet

    @property
    def slot(self) -> Slot:
        if self.facts is None:
            raise RuntimeError("the actor is not ready yet")
        return self.facts.slot


class Agents:
    """The actors of one search; its phases share them, so that TensorFlow is imported once per slot.

    Args:
        note: takes what a person should know.
        wait_minutes: how long the cluster may have no room at all.
    """

    def __init__(
        self, run_trial: RunTrial, start_method: StartMethod, preload: Sequence[str], note: Note, wait_minutes: float
    ) -> None:
        self._arguments = (run_trial, start_method, tuple(preload))
        self._note = note
        self._wait_seconds = 60 * wait_minutes
        self.need: Need | None = None  # of each trial; None: before the first `aim`
        self._most, self._spare = 0, False
        self._looked = self._had_some = 0.0
        self._failed_in_a_row, self._make_after = 0, 0.0
        self._noted = set[str]()  # topics
        self.all: list[Agent] = []
        self.nodes = NodeRecords()

    def aim(self, need: Need, most: int, spare: bool = True) -> None:
        """Want as many slots as the cluster has room for, at most `most`.

        Args:
            spare: ask for half as many again as the cluster has room for now.
        """
        if need != self.need:
            for agent in list(self.all):
                self.discard(agent)
        self.need, self._most, self._spare = need, most, spare
        self._had_some, self._looked = time.monotonic(), 0.0

    def ready(self) -> list[Agent]:
        return [agent for agent in self.all if agent.facts is not None]

    def tend(self, busy: Sequence[Agent]) -> set[str]:
        """Make actors for new nodes, give up those of nodes that have left; return the nodes about to leave.

        Raises:
            RunError: the cluster has had no room for too long, or every suitable node is left out.
        """
        need = self.need
        if need is None or time.monotonic() < self._looked + _TEND_SECONDS:
            return set()
        nodes, leaving = list_nodes(), list_leaving()
        usable = [node for node in nodes if node.id not in self.nodes.left_out]
        if self.nodes.left_out and not any(need.count(node) for node in usable) and not busy:
            raise RunError(
                "engine = ray: every node that could run a trial is left out; debug_strategy.log says why. "
                "Fix them, then continue; see: mloptimizer cluster doctor."
            )
        ids = {node.id for node in usable}
        for agent in self.ready():
            if agent not in busy and agent.facts and agent.facts.node not in ids:
                self.discard(agent)
        room = sum(need.count(node) for node in usable)
        wanted = min(self._most, room + (max(1, room // 2) if self._spare else 0))
        while len(self.all) < wanted and time.monotonic() >= self._make_after:
            self.all.append(self._make(need))
        unused = [agent for agent in reversed(self.all) if agent not in busy]
        for agent in sorted(unused, key=lambda agent: agent.facts is not None)[: max(0, len(self.all) - wanted)]:
            self.discard(agent)  # those that are not ready yet first
        self._looked = time.monotonic()
        if self.ready():
            self._had_some = self._looked
        elif self._looked > self._had_some + self._wait_seconds:
            raise RunError(
                f"engine = ray: the cluster has had no room for {self._wait_seconds / 60:g} minutes (ray_wait_minutes) "
                f"for {need.describe()}. It has {describe_nodes(nodes)}. Continue when there is room."
            )
        return leaving

    def _make(self, need: Need) -> Agent:
        options: dict[str, Any] = {"num_cpus": need.cpus, "num_gpus": need.gpus}
        if need.memory_mb:
            options["memory"] = need.memory_mb * 2**20
        if self.nodes.left_out:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self.nodes.left_out))})"}
        make = ray.remote(SlotAgent).options(max_restarts=0, max_concurrency=2, **options).remote
        actor = make(*self._arguments, need)
        return Agent(actor, actor.describe.remote())

    def welcome(self, agent: Agent) -> None:
        """Take an actor's facts. Raises RunError: no actor can be made in this cluster."""
        try:
            facts = ray.get(agent.described)
        except RayError as error:
            self.discard(agent)
            self._failed_in_a_row += 1
            self._make_after = time.monotonic() + min(2.0**self._failed_in_a_row, _LONGEST_PAUSE_SECONDS)
            _, reason = explain(error)
            self._note_once(Decision(None, "worker", "one could not be started; trying again", reason))
            if self._failed_in_a_row >= _FAILED_IN_A_ROW and not self.ready():
                raise RunError(f"engine = ray: no worker can be started in the cluster: {reason}.") from error
            return
        self._failed_in_a_row = 0
        if facts.version != mloptimizer.__version__ and facts.node not in self.nodes.left_out:
            self.nodes.left_out.add(facts.node)
            reason = f"it has mloptimizer {facts.version}, this machine {mloptimizer.__version__}"
            self._note(Decision(None, "node", f"{facts.slot.host} is left out", reason))
        if facts.node in self.nodes.left_out:
            self.discard(agent)
            return
        agent.facts = facts
        if facts.auth_mode != "token" and os.environ.get("RAY_AUTH_MODE") == "token":
            reason = "anyone who reaches the cluster can run code on it; set RAY_AUTH_MODE=token before `ray start`"
            self._note_once(Decision(None, "authentication", "off in this cluster", reason))
        if self.need and self.need.gpus and not facts.slot.gpu_ids:
            reason = "Ray declares GPUs there, and NVML sees none"
            self._note(Decision(None, "GPUs", f"none on {facts.slot.host}", reason))

    def _note_once(self, decision: Decision) -> None:
        if decision.topic not in self._noted:
            self._noted.add(decision.topic)
            self._note(decision)

    def judge(self, agent: Agent, kind: FailureKind | None) -> None:
        """Take how an attempt ended on the actor's node, None: well; this may leave the node out from now on."""
        if agent.facts and (reason := self.nodes.note(agent.facts.node, kind)):
            self._looked = 0.0  # its actors are given up at the next look
            self._note(Decision(None, "node", f"{agent.slot.host} is left out", reason))

    def discard(self, agent: Agent) -> None:
        """End the actor, and the processes that it started."""
        if agent in self.all:
            self.all.remove(agent)
        ray.kill(agent.actor)

    def close(self) -> None:
        leaving = [agent.actor.leave.remote() for agent in self.ready()]
        ray.wait(leaving, num_returns=len(leaving), timeout=5) if leaving else None
        for agent in list(self.all):
            self.discard(agent)
