"""Estimates the memory that a training needs, divides its steps so that it fits, and frees unused memory.

The estimate is one replica's peak, in MB of 2^20 bytes, beyond the memory of the process before its first step. It adds
the activations that `activations` counts and `WORKING_TENSORS` float32 tensors of the largest size, and assumes that
operations run one after the other. It leaves out code, images, workspaces of libraries (cuDNN's may be large) and gaps
between allocations.
"""

import contextlib
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

FITTING_SHARE = 0.9  # of a device's memory; the rest is for what the estimate leaves out
WORKING_TENSORS = 3  # the gradients on both sides of an operation, and its workspace
_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Estimate:
    """The memory of one replica, MB."""

    weights_mb: float  # permanent: weights, optimizer state, moving average, and on a CPU the copies kept of them
    activations_mb: float  # of a micro-batch, at their peak, with the gradients
    update_mb: float  # of the weight update, after the activations are freed

    @property
    def total_mb(self) -> float:
        return self.weights_mb + max(self.activations_mb, self.update_mb)

    def fits(self, memory_mb: float) -> bool:
        """Whether a device with this much memory has room for it; 0: unknown, and assumed to be enough."""
        return not memory_mb or self.total_mb <= FITTING_SHARE * memory_mb


def estimate_memory(
    network: Any, micro_batch: int, precision: str, optimizer_vectors: int, remat: bool, on_host: bool
) -> Estimate:
    """Return the estimated memory of training the network.

    Args:
        micro_batch: images per replica and pass.
        precision: the network's Keras dtype policy; half precision keeps a second copy of the weights.
        optimizer_vectors: the optimizer's states and moving average, each of the size of the weights.
        remat: the backward pass recomputes activations.
        on_host: the replica trains in main memory, which also holds the best weights and the last good state (weights
            and optimizer vectors).
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
    """How a step is computed so that it fits into memory."""

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
    """Return the first plan whose estimate fits, or the one with the smallest estimate if none does.

    Settings at auto change only as far as needed. Micro-batches come first, as they cost least, unless the network
    normalises over the batch: then recomputation, which leaves the result unchanged, comes first.

    Args:
        estimate: takes images per micro-batch, and whether activations are recomputed.
        memory_mb: what a replica may take; 0: unknown, so nothing changes.
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
    chosen = min(tried, key=lambda plan: plan.estimate.total_mb)  # the last one if it fits
    passes = "1 pass" if chosen.accumulation_steps == 1 else f"{chosen.accumulation_steps} micro-batches"
    choice = f"{passes} per step{', activations recomputed' if chosen.remat else ''}"
    decide("memory", choice, _reason(tried[0], chosen, memory_mb))
    return chosen


def _possible_remats(network: Any, setting: str, decide: Decide) -> list[bool]:
    """Return the choices of recomputation in the order to try; report if it would save nothing."""
    if setting == "off":
        return [False]
    if can_rematerialise(network):
        return [True] if setting == "on" else [False, True]
    impure = "no segment of the network can run twice: each draws without a seed, adds a loss or syncs replicas"
    decide("remat", "off", impure if cut_graph(network)[1] else "the graph cannot be cut at a single tensor")
    return [False]


def _reason(first: MemoryPlan, chosen: MemoryPlan, memory_mb: float) -> str:
    need = f"an estimated {chosen.estimate.total_mb:,.0f} MB per replica"
    if not memory_mb:
        return f"{need}; the available memory is unknown"
    space = f"{FITTING_SHARE:.0%} of {memory_mb:,.0f} MB"
    if not chosen.estimate.fits(memory_mb):
        return f"{need}, which may exceed {space}, but nothing needs less"
    rest = "" if chosen is first else f"; {first.estimate.total_mb:,.0f} MB, as set, would not"
    return f"{need} fit into {space}{rest}"


def relieve_memory(threshold_percent: float, read_percent: Callable[[], float] = memory_percent) -> bool:
    """Free unused memory of the process if the use of main memory has reached the threshold; return whether it did.

    This takes some tenths of a second, so call it at most every few seconds.
    """
    if read_percent() < threshold_percent:
        return False
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc needs to be asked for its free pages
        ctypes.CDLL(None).malloc_trim(0)
    return True
