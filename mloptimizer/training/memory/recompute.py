"""Computes activations again in the backward pass instead of keeping them, which trades time for memory.

A network is cut where the whole graph passes through one tensor. Of each segment between two cuts only the input is
kept, and its other activations are computed a second time when its gradient is due (Chen et al. 2016, section 3).

Guarantees: gradients, random masks and the statistics of normalisations are those of the plain network: a segment is
run as a pure function of its input, its weights and its state before the step, so that both runs give the same, and the
state is written once. A segment that is no such function is not computed again.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mloptimizer.training.keras_internals import all_layers, graph_nodes, has_mask
from mloptimizer.training.memory.activations import kept_bytes, tensor_bytes


@dataclass(frozen=True)
class Rematerialised:
    """A network's forward pass in training: images to logits; call it in a `tf.function`, as eagerly nothing is saved.

    It may be called on replicas, in loops and in what XLA compiles. Without a segment that is computed again it is the
    plain network.
    """

    segments: Sequence[Any]  # of keras.Model
    again: Sequence[bool]  # which of them are computed again

    @property
    def recomputed(self) -> int:
        """How many segments are computed again; with none, nothing is saved."""
        return sum(self.again)

    def __call__(self, images: Any) -> Any:
        for segment, again in zip(self.segments, self.again, strict=True):
            images = _run_again_later(segment, images) if again else segment(images, training=True)
        return images


def rematerialised(network: Any) -> Rematerialised:
    """Return the network's forward pass in training, which keeps the inputs of its segments only.

    The last segment is not computed again: its gradient is due at once.
    """
    segments = split_network(network)
    return Rematerialised(segments, [_is_pure(segment) for segment in segments[:-1]] + [False])


def split_network(network: Any) -> list[Any]:
    """Return models that give the network when they run one after the other; one where it cannot be cut."""
    whole = keras.Model(network.inputs[0], network.outputs[0])
    nodes, cuts = cut_graph(whole)
    borders = [whole.inputs[0], *(nodes[cut].outputs[0] for cut in cuts), whole.outputs[0]]
    return [keras.Model(start, end) for start, end in itertools.pairwise(borders)] if cuts else [whole]


def can_rematerialise(network: Any) -> bool:
    """Whether a part of the network would be computed again: where none is cut off or can run twice, nothing is saved.

    It traces segments until one can run twice, which takes a fraction of a second, or about one for a deep network.
    """
    return any(_is_pure(segment) for segment in split_network(network)[:-1])


def cut_graph(network: Any) -> tuple[list[Any], list[int]]:
    """Return the nodes of the network in an order of computation, and after which of them to cut.

    Of the places where the whole graph passes through one tensor, for instance after the sum of a residual block, those
    are taken that leave the least to keep: the inputs of all segments, and the activations within the largest. With
    even segments that is about the square root of the number of activations.
    """
    nodes = graph_nodes(keras.Model(network.inputs[0], network.outputs[0]))
    possible, within = _possible_cuts(nodes), kept_bytes(nodes)
    borders = {cut: tensor_bytes(nodes[cut].outputs[0]) for cut in possible}
    ends = [*itertools.accumulate(within)]
    choices = [_even_cuts(ends, possible, ends[-1] / segments) for segments in range(1, len(possible) + 2)]

    def keeps(cuts: Sequence[int]) -> int:
        parts = itertools.pairwise([0, *(ends[cut] for cut in cuts), ends[-1]])
        return sum(borders[cut] for cut in cuts) + max(end - start for start, end in parts)

    return nodes, min(choices, key=keeps)


def _possible_cuts(nodes: Sequence[Any]) -> list[int]:
    """Return after which nodes nothing but their one output is needed any more."""
    last_use = {id(tensor): position for position, node in enumerate(nodes) for tensor in node.input_tensors}
    cuts, needed_until = [], 0  # the last use of any tensor made before the node
    for position, node in enumerate(nodes[:-1]):
        alone = needed_until <= position and len(node.outputs) == 1 and not node.is_input
        if alone and not has_mask(node.outputs[0]):
            cuts.append(position)
        needed_until = max([needed_until, *(last_use.get(id(tensor), 0) for tensor in node.outputs)])
    return cuts


def _even_cuts(ends: Sequence[int], possible: Sequence[int], limit: float) -> list[int]:
    """Return cuts between segments that keep no more than the limit where the possible cuts allow it.

    Args:
        ends: bytes kept from the start to each node.
    """
    cuts: list[int] = []
    for cut, following in itertools.pairwise([*possible, len(ends) - 1]):
        if ends[following] - (ends[cuts[-1]] if cuts else 0) > limit:
            cuts.append(cut)
    return cuts


def _is_pure(segment: Any) -> bool:
    """Whether all that running the segment does is in its output and its Keras state, so that it can run twice.

    A random draw without a seed generator, a loss that a layer adds, a sum over the replicas or another kind of
    variable is not.
    """
    if any(getattr(layer, "synchronized", False) for layer in all_layers(segment)):
        return False
    losses: list[Any] = []

    @tf.function
    @tf.autograph.experimental.do_not_convert
    def run(images: Any, weights: Sequence[Any], state: Sequence[Any]) -> Any:
        return _run_purely(segment, images, weights, state, losses)

    variables = segment.trainable_variables, segment.non_trainable_variables
    traced = run.get_concrete_function(_spec(segment.inputs[0]), *([*map(_spec, kind)] for kind in variables))
    return not losses and not any(operation.op_def.is_stateful for operation in traced.graph.get_operations())


def _spec(value: Any) -> Any:
    return tf.TensorSpec(value.shape, value.dtype)


def _run_again_later(segment: Any, images: Any) -> Any:
    """Return the segment's output, and update its state; its gradient runs it again."""
    weights = [tf.convert_to_tensor(variable.value) for variable in segment.trainable_variables]
    state = [tf.convert_to_tensor(variable.value) for variable in segment.non_trainable_variables]
    after = []

    @tf.custom_gradient
    def run(images: Any, *weights: Any) -> Any:
        outputs, changed = _run_purely(segment, images, weights, state)
        after.extend(changed)

        def find_gradients(gradient: Any) -> Any:
            with tf.GradientTape() as tape:
                inputs = [_once_there(images, gradient), *weights]
                tape.watch(inputs)
                again, _ = _run_purely(segment, inputs[0], inputs[1:], state)
            return tape.gradient(again, inputs, output_gradients=gradient)

        return outputs, find_gradients

    outputs = run(images, *weights)
    for variable, old, new in zip(segment.non_trainable_variables, state, after, strict=True):
        if new is not old:
            variable.assign(new)
    return outputs


def _run_purely(
    segment: Any, images: Any, weights: Sequence[Any], state: Sequence[Any], losses: list[Any] | None = None
) -> tuple[Any, list[Any]]:
    """Return the segment's output in training and its state afterwards; no variable is read or written.

    Args:
        losses: what the segment's layers add as losses is put here, if given.
    """
    values = [*zip(segment.trainable_variables, weights, strict=True)]
    values += [*zip(segment.non_trainable_variables, state, strict=True)]
    with keras.StatelessScope(values, collect_losses=losses is not None, initialize_variables=False) as scope:
        outputs = segment(images, training=True)
    if losses is not None:
        losses.extend(scope.losses)
    return outputs, [scope.get_current_value(variable) for variable in segment.non_trainable_variables]


def _once_there(images: Any, gradient: Any) -> Any:
    """Return the images, but not before the gradient is there.

    Otherwise both runs of a segment would be merged into one, whose activations are kept. The condition is never met,
    which neither TensorFlow's nor XLA's simplifications see; XLA does not respect control dependencies.
    """
    one = tf.reduce_max(tf.reshape(gradient, [-1])[:1])
    never = tf.math.is_nan(one) & tf.math.is_inf(one)
    return images + tf.cast(never, images.dtype)
