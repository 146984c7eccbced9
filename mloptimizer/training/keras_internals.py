"""The one place that uses private parts of Keras: the graph of a network, its masks, an optimizer's counter.

`tests/training/test_library_internals.py` fails when Keras changes any of it.
"""

from typing import Any


def graph_nodes(network: Any) -> list[Any]:
    """Return the nodes of a functional network in an order of computation."""
    return [node for depth in sorted(network._nodes_by_depth, reverse=True) for node in network._nodes_by_depth[depth]]


def is_network(operation: Any) -> bool:
    """Whether the operation is a functional network used as a layer."""
    return hasattr(operation, "_nodes_by_depth")


def all_layers(network: Any) -> list[Any]:
    """Return the network and every layer within it, nested ones too."""
    return list(network._flatten_layers())


def all_outputs(operation: Any) -> list[Any]:
    """Return the output tensors of every call of the operation."""
    return [tensor for node in operation._inbound_nodes for tensor in node.outputs]


def has_mask(tensor: Any) -> bool:
    """Whether the tensor carries a mask, which the graph does not show."""
    return getattr(tensor, "_keras_mask", None) is not None


def count_on_every_replica(optimizer: Any) -> None:
    """Let each replica count its steps: with Keras's own counter, all would wait for the first."""
    optimizer._untrack_variable(optimizer.iterations)
    optimizer._iterations = optimizer.add_variable((), dtype="int64", name="iteration")


def trained_weights(optimizer: Any) -> list[Any]:
    """Return the weights that the optimizer trains; a list of its own would make them its variables."""
    return list(optimizer._trainable_variables)
