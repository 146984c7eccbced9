"""Recomputes activations in the backward pass instead of keeping them, which trades time for memory.

A network is cut where the whole graph passes through one tensor. Only the input of each segment between two cuts is
kept; its other activations are recomputed for its gradient (Chen et al. 2016, section 3).

Guarantees: gradients, random masks and normalisation statistics are those of the plain network. A segment runs as a
pure function of its input, its weights and its state before the step, so both runs give the same result, and the state
is written once. A segment that is not pure is not recomputed.
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
    """A network's forward pass in training, from images to logits; saves memory only within a `tf.function`.

    It works on replicas, in loops and in code that XLA compiles.
    """

    segments: Sequence[Any]  # of keras.Model
    again: Sequence[bool]  # which of them are recomputed

    @property
    def recomputed(self) -> int:
        """How many segments are recomputed; with none, nothing is saved."""
        return sum(self.again)

    def __call__(self, images: Any) -> Any:
        for segment, again in zip(self.segments, self.again, strict=True):
            images = _run_again_later(segment, images) if again else segment(images, training=True)
        return images


def rematerialised(network: Any) -> Rematerialised:
    """Return the network's forward pass in training, which keeps only the inputs of its segments.

    The last segment is not recomputed, as its gradient comes first.
    """
    segments = split_network(network)
    return Rematerialised(segments, [_is_pure(segment) for segment in segments[:-1]] + [False])


def split_network(network: Any) -> list[Any]:
    """Return models that together are the network, one after the other; a single one if it cannot be cut."""
    whole = keras.Model(network.inputs[0], network.outputs[0])
    nodes, cuts = cut_graph(whole)
    borders = [whole.inputs[0], *(nodes[cut].outputs[0] for cut in cuts), whole.outputs[0]]
    return [keras.Model(start, end) for start, end in itertools.pairwise(borders)] if cuts else [whole]


def can_rematerialise(network: Any) -> bool:
    """Whether a part of the network can be recomputed.

    It traces segments until one can run twice, which takes up to about a second.
    """
    return any(_is_pure(segment) for segment in split_network(network)[:-1])


def cut_graph(network: Any) -> tuple[list[Any], list[int]]:
    """Return the nodes of the network in an order of computation, and the indices of the nodes to cut after.

    Of the places where the whole graph passes through one tensor, such as the sum of a residual block, it takes those
    that minimise the memory for the inputs of all segments and the activations of the largest. With even segments that
    is about the square root of the number of activations.
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
    """Return the indices of the nodes after which only their one output is needed."""
    last_use = {id(tensor): position for position, node in enumerate(nodes) for tensor in node.input_tensors}
    cuts, needed_until = [], 0  # the last use of any tensor made before the node
    for position, node in enumerate(nodes[:-1]):
        alone = needed_until <= position and len(node.outputs) == 1 and not node.is_input
        if alone and not has_mask(node.outputs[0]):
            cuts.append(position)
        needed_until = max([needed_until, *(last_use.get(id(tensor), 0) for tensor in node.outputs)])
    return cuts


def _even_cuts(ends: Sequence[int], possible: Sequence[int], limit: float) -> list[int]:
    """Return cuts between segments that keep at most `limit` bytes if possible; `ends`: kept up to each node."""
    cuts: list[int] = []
    for cut, following in itertools.pairwise([*possible, len(ends) - 1]):
        if ends[following] - (ends[cuts[-1]] if cuts else 0) > limit:
            cuts.append(cut)
    return cuts


def _is_pure(segment: Any) -> bool:
    """Whether the segment changes nothing but its output and its Keras state, so that it can run twice.

    Random draws without a seed generator, added losses, sums over replicas and other kinds of variables are effects.
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
    """Return the segment's output, and update its state; the gradient runs it again."""
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
    """Return the segment's output in training and its new state, without access to variables.

    Args:
        losses: receives the losses that the layers add, if given.
    """
    values = [*zip(segment.trainable_variables, weights, strict=True)]
    values += [*zip(segment.non_trainable_variables, state, strict=True)]
    with keras.StatelessScope(values, collect_losses=losses is not None, initialize_variables=False) as scope:
        outputs = segment(images, training=True)
    if losses is not None:
        losses.extend(scope.losses)
    return outputs, [scope.get_current_value(variable) for variable in segment.non_trainable_variables]


def _once_there(images: Any, gradient: Any) -> Any:
    """Return the images, but only after the gradient has been computed.

    Otherwise both runs of a segment would be merged into one, whose activations are kept. Neither TensorFlow nor XLA
    sees that the condition is never met; XLA ignores control dependencies.
    """
    one = tf.reduce_max(tf.reshape(gradient, [-1])[:1])
    never = tf.math.is_nan(one) & tf.math.is_inf(one)
    return images + tf.cast(never, images.dtype)
