"""Estimates the memory that a training needs, divides its steps so that it fits, and returns what can be spared.

The estimate is of one replica's peak, in MB of 2^20 bytes, beyond what the process holds before its first step. It
assumes that a step keeps what `activations` counts, that beside it live `WORKING_TENSORS` float32 tensors of the size
of the largest one, and that the operations run one after the other. Not counted are the programs themselves, the
images, what libraries take as workspace (cuDNN's may be large), and gaps between allocations.
"""

import ctypes
import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.config.settings import Settings
from mloptimizer.hardware.read.machine import MB
from mloptimizer.hardware.read.main_memory import memory_percent
from mloptimizer.training.devices import Decide
from mloptimizer.training.keras_internals import all_layers
from mloptimizer.training.memory.activations import count_elements, kept_bytes, tensor_bytes
from mloptimizer.training.memory.batch_plan import BatchPlan, fewer_at_once
from mloptimizer.training.memory.recompute import can_rematerialise, cut_graph

FITTING_SHARE = 0.9  # of a device's memory: the rest is for what the estimate leaves out
WORKING_TENSORS = 3  # the gradients on both sides of an operation, and what it works with
_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Estimate:
    """The memory of one replica, MB."""

    weights_mb: float  # what lasts: weights, optimizer state, moving average, and on a CPU the copies kept of them
    activations_mb: float  # of a micro-batch, at their peak, with the gradients
    update_mb: float  # what the update of the weights works with, when the activations are gone

    @property
    def total_mb(self) -> float:
        """The peak."""
        return self.weights_mb + max(self.activations_mb, self.update_mb)

    def fits(self, memory_mb: float) -> bool:
        """Whether a device with so much memory has room for it; 0: unknown, and taken for enough."""
        return not memory_mb or self.total_mb <= FITTING_SHARE * memory_mb


def estimate_memory(
    network: Any, micro_batch: int, precision: str, optimizer_vectors: int, remat: bool, on_host: bool
) -> Estimate:
    """Return the estimated memory of training the network.

    Args:
        micro_batch: images per replica and pass.
        precision: the Keras dtype policy that the network was built under; halves keep a second copy of the weights.
        optimizer_vectors: of the size of the weights, that the optimizer remembers: its states and a moving average.
        remat: activations are computed again in the backward pass.
        on_host: the replica trains in the main memory, where the best weights and the last good state (weights and
            optimizer vectors) are kept too. A GPU holds neither.
    """
    trainable, weights = _bytes(network.trainable_weights), _bytes(network.weights)
    state = weights + optimizer_vectors * trainable
    lasting = 2 * state + weights if on_host else state
    gradients = 2 * trainable  # each weight's, and all as one vector
    halves = 0 if precision == "float32" else trainable // 2
    activations = micro_batch * _bytes_per_image(network, remat)
    update = (optimizer_vectors + 3) * trainable  # gradient, clipped gradient, change and new vectors
    return Estimate(lasting / MB, (activations + gradients + halves) / MB, update / MB)


def _bytes(weights: Sequence[Any]) -> int:
    return sum(weight.value.shape.num_elements() * tf.as_dtype(weight.dtype).size for weight in weights)


def _bytes_per_image(network: Any, remat: bool) -> int:
    nodes, cuts = cut_graph(network)
    outputs = [tensor for node in nodes for tensor in node.outputs]
    working = WORKING_TENSORS * _FLOAT32 * max(map(count_elements, outputs))
    if not remat:
        return sum(kept_bytes(nodes)) + working
    borders = [0, *(cut + 1 for cut in cuts), len(nodes)]
    segments = [nodes[start:end] for start, end in itertools.pairwise(borders)]
    at_cuts = sum(tensor_bytes(nodes[cut].outputs[0]) for cut in cuts)
    return at_cuts + max(sum(kept_bytes(segment)) for segment in segments) + working


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is computed so that it fits."""

    accumulation_steps: int
    remat: bool
    estimate: Estimate


def plan_memory(
    network: Any,
    batch: BatchPlan,
    settings: Settings,
    estimate: Callable[[int, bool], Estimate],
    memory_mb: float,
    decide: Decide,
) -> MemoryPlan:
    """Return the first way of computing a step that is estimated to fit; the most sparing one where none does.

    What the settings leave at auto is changed only as far as needed. Micro-batches come first, as they cost least,
    unless the network normalises over the batch: then computing activations again, which leaves the result as it is.

    Args:
        estimate: takes images per micro-batch, and whether activations are computed again.
        memory_mb: what a replica may take; 0: unknown, so that nothing is changed.
    """
    as_set = settings.remat == "auto" and estimate(batch.micro_batch, False).fits(memory_mb)
    remats = [False] if as_set else _possible_remats(network, settings.remat, decide)
    batches = [batch]
    while settings.accumulation_steps == "auto":
        parts = fewer_at_once(batches[-1], settings.min_micro_batch)
        if parts is None:
            break
        batches.append(replace(batch, accumulation_steps=parts))
    ways = [(divided, remat) for remat in remats for divided in batches]
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in all_layers(network)):
        ways = [(divided, remat) for divided in batches for remat in remats]
    tried: list[MemoryPlan] = []
    for way, remat in ways:
        tried.append(MemoryPlan(way.accumulation_steps, remat, estimate(way.micro_batch, remat)))
        if tried[-1].estimate.fits(memory_mb):
            break
    chosen = min(tried, key=lambda plan: plan.estimate.total_mb)  # where one fits, none before it did
    decide("memory", _describe(chosen), _reason(tried[0], chosen, memory_mb))
    return chosen


def _possible_remats(network: Any, setting: str, decide: Decide) -> list[bool]:
    """Return whether activations may be computed again, in the order to try; where it would save nothing, say so."""
    if setting == "off":
        return [False]
    if can_rematerialise(network):
        return [True] if setting == "on" else [False, True]
    reason = "no segment of the network can run twice: each draws without a seed, adds a loss or talks to replicas"
    if not cut_graph(network)[1]:
        reason = "the network's whole graph nowhere passes through one tensor"
    decide("remat", "off", reason)
    return [False]


def _describe(plan: MemoryPlan) -> str:
    parts = "1 pass" if plan.accumulation_steps == 1 else f"{plan.accumulation_steps} micro-batches"
    return f"{parts} a step{', activations computed again' if plan.remat else ''}"


def _reason(first: MemoryPlan, chosen: MemoryPlan, memory_mb: float) -> str:
    need = f"an estimated {chosen.estimate.total_mb:,.0f} MB a replica"
    if not memory_mb:
        return f"{need}; how much there is, is unknown"
    space = f"{FITTING_SHARE:.0%} of {memory_mb:,.0f} MB"
    if not chosen.estimate.fits(memory_mb):
        return f"{need}, which may be too much for {space}, but nothing spares more"
    if chosen is first:
        return f"{need} fit into {space}"
    return f"{need} fit into {space}; {first.estimate.total_mb:,.0f} MB, as set, would not"


def relieve_memory(threshold_percent: float, read_percent: Callable[[], float] = memory_percent) -> bool:
    """Return what the process can spare to the system if the main memory is in use from the threshold on.

    Collecting takes some tenths of a second: call it at most every few seconds. Returns whether it was done.
    """
    if read_percent() < threshold_percent:
        return False
    gc.collect()
    _trim_heap()
    return True


def _trim_heap() -> None:
    """Let glibc give its free pages back; other C libraries do so by themselves or not at all."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
