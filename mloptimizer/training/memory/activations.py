"""Estimates from a network's graph the memory that a training step keeps of every image for the gradient.

An operation keeps its inputs, its output or other tensors, as its gradient needs them; a tensor that several operations
keep counts once. The numbers were read from the graphs that TensorFlow makes of each layer. XLA merges operations and
keeps less; an unknown layer counts with its inputs, its output and one more tensor.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from mloptimizer.training.keras_internals import graph_nodes, is_network


@dataclass(frozen=True)
class _Kept:
    """What the gradient of an operation needs."""

    inputs: bool = False
    output: bool = False
    extra: float = 0.0  # further tensors of the output's size
    in_float32: bool = False  # computes in float32, and keeps such copies of other inputs


_UNKNOWN = _Kept(inputs=True, output=True, extra=1)
_NOTHING, _INPUTS, _OUTPUT, _BOTH = _Kept(), _Kept(inputs=True), _Kept(output=True), _Kept(inputs=True, output=True)
_ACTIVATIONS = {
    **dict.fromkeys(("linear", "identity"), _NOTHING),
    **dict.fromkeys(("relu", "relu6", "elu", "selu", "tanh", "sigmoid", "softmax", "exponential", "exp"), _OUTPUT),
    **dict.fromkeys(("silu", "swish", "softplus", "softsign", "leaky_relu", "leakyrelu"), _INPUTS),
    "gelu": _Kept(extra=3),
    "gelu approximate": _Kept(inputs=True, extra=3),
    "mish": _Kept(inputs=True, extra=1),
    **dict.fromkeys(("hard_silu", "hardsilu", "hard_swish"), _Kept(inputs=True, extra=2)),
    **dict.fromkeys(("hard_sigmoid", "hardsigmoid"), _Kept(extra=1)),
    "prelu": _Kept(extra=2),
}
_DIMENSIONS = ("1D", "2D", "3D")
_WITH_ACTIVATION = (
    *(f"Conv{d}{kind}" for d in _DIMENSIONS for kind in ("", "Transpose")),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Dense", "EinsumDense"),
)
_LAYERS = {
    **dict.fromkeys(_WITH_ACTIVATION, _INPUTS),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _Kept(inputs=True, extra=1)),
    **dict.fromkeys(("BatchNormalization", "GroupNormalization"), _Kept(inputs=True, in_float32=True)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _Kept(inputs=True, extra=1, in_float32=True)),
    **{f"{kind}Pooling{d}": _BOTH for d in _DIMENSIONS for kind in ("Max", "GlobalMax")},
    **dict.fromkeys(("Maximum", "Minimum", "Max", "Min"), _BOTH),
    **dict.fromkeys(("UnitNormalization", "Multiply", "Divide", "Square", "Power", "Matmul", "Dot"), _INPUTS),
    **{f"{kind}{d}": _NOTHING for d in _DIMENSIONS for kind in ("AveragePooling", "GlobalAveragePooling")},
    **{f"{kind}{d}": _NOTHING for d in _DIMENSIONS for kind in ("ZeroPadding", "Cropping", "UpSampling")},
    **{f"SpatialDropout{d}": _NOTHING for d in _DIMENSIONS},
    **dict.fromkeys(("Add", "Subtract", "Average", "Concatenate", "Split", "GetItem", "Mean", "Sum", "Pad"), _NOTHING),
    **dict.fromkeys(("InputLayer", "Rescaling", "GaussianNoise", "Permute", "Transpose", "Cast", "Negative"), _NOTHING),
    **dict.fromkeys(("SimpleRNN", "GRU", "LSTM", "Bidirectional"), _Kept(inputs=True, output=True, extra=8)),
}
_DROPOUTS = ("Dropout", "AlphaDropout")
_FLOAT32 = 4  # bytes
_VIEWS = ("Flatten", "Reshape", "ExpandDims", "Squeeze", "Identity")  # their output is their input


def kept_bytes(nodes: Sequence[Any]) -> list[int]:
    """Return the bytes per image that each node, in the order of computation, adds to the memory kept."""
    counted: set[int] = set()
    same: dict[int, Any] = {}  # by id of a tensor: the one whose memory it shares
    sizes = []
    for node in nodes:
        if type(node.operation).__name__ in _VIEWS:
            same[id(node.outputs[0])] = same.get(id(node.input_tensors[0]), node.input_tensors[0])
        tensors = [same.get(id(tensor), tensor) for tensor in _kept_tensors(node)]
        new = {id(tensor): tensor for tensor in tensors if id(tensor) not in counted}
        counted |= new.keys()
        sizes.append(sum(map(tensor_bytes, new.values())) + _own_bytes(node))
    return sizes


def tensor_bytes(tensor: Any) -> int:
    """Return the bytes of the tensor per image."""
    return count_elements(tensor) * _size(tensor)


def count_elements(tensor: Any) -> int:
    """Return the number of elements of the tensor per image."""
    return math.prod(length or 1 for length in tensor.shape[1:])


def _size(tensor: Any) -> int:
    return tf.as_dtype(tensor.dtype).size


def _kept_tensors(node: Any) -> Iterator[Any]:
    """Yield the tensors of the graph that the node's gradient needs."""
    kept, after = _kept_by(node.operation), _kept_after(node.operation)
    if kept.inputs and not _makes_copy(kept, node):
        yield from node.input_tensors
    if kept.output or after.output:
        yield from node.outputs


def _own_bytes(node: Any) -> int:
    """Return the bytes of the further tensors that the node's gradient needs."""
    operation, kept, after = node.operation, _kept_by(node.operation), _kept_after(node.operation)
    name = type(operation).__name__
    if is_network(operation):
        return sum(kept_bytes(graph_nodes(operation)))
    if name == "MultiHeadAttention":
        return _attention_bytes(node)
    if name in _DROPOUTS:
        return sum(map(count_elements, node.outputs)) if operation.rate else 0  # a mask of bytes
    own = (after.extra + after.inputs) * sum(map(tensor_bytes, node.outputs))
    if _makes_copy(kept, node):
        return int(own + (kept.extra + 1) * _FLOAT32 * sum(map(count_elements, node.input_tensors)))
    return int(own + kept.extra * sum(map(tensor_bytes, node.outputs)))


def _makes_copy(kept: _Kept, node: Any) -> bool:
    return kept.in_float32 and any(_size(tensor) < _FLOAT32 for tensor in node.input_tensors)


def _kept_by(operation: Any) -> _Kept:
    name = type(operation).__name__
    if name in (*_VIEWS, *_DROPOUTS) or is_network(operation):
        return _NOTHING
    if name == "Multiply" and not isinstance(operation.input, list):
        return _NOTHING  # by a constant
    if name == "Activation":
        return _of_function(operation)
    if name in _LAYERS:
        return _LAYERS[name]
    known = name.lower() + (" approximate" if getattr(operation, "approximate", False) else "")
    return _ACTIVATIONS.get(known, _UNKNOWN)


def _kept_after(operation: Any) -> _Kept:
    """Return what a layer's activation function keeps; its input belongs to the layer alone."""
    has_one = type(operation).__name__ in _WITH_ACTIVATION and operation.activation is not None
    return _of_function(operation) if has_one else _NOTHING


def _of_function(operation: Any) -> _Kept:
    return _ACTIVATIONS.get(getattr(operation.activation, "__name__", ""), _UNKNOWN)


def _attention_bytes(node: Any) -> int:
    """Return the bytes of queries, keys, values and their mean, and of the weight of every pair of positions."""
    layer, size = node.operation, _size(node.outputs[0])
    lengths = [math.prod(length or 1 for length in tensor.shape[1:-1]) for tensor in node.input_tensors]
    ours, theirs = lengths[0], lengths[-1]
    softmax = _FLOAT32 if size == _FLOAT32 else _FLOAT32 + size  # computed in float32, and cast back
    return 2 * (ours + theirs) * layer.num_heads * layer.key_dim * size + layer.num_heads * ours * theirs * softmax
