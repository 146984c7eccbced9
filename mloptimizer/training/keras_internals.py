"""Is the one place that uses what Keras keeps to itself: the graph of a network, its masks, an optimizer's counter.

`tests/training/test_library_internals.py` fails when Keras changes any of it.
"""

from typing import Any


def graph_nodes(network: Any) -> list[Any]:
    """Return the nodes of a functional network in an order in which they can be computed."""
    return [node for depth in sorted(network._nodes_by_depth, reverse=True) for node in network._nodes_by_depth[depth]]


def is_network(operation: Any) -> bool:
    """Whether the operation is a functional network, used as a layer."""
    return hasattr(operation, "_nodes_by_depth")


def all_layers(network: Any) -> list[Any]:
    """Return the network and every layer within it, those within other layers too."""
    return list(network._flatten_layers())


def all_outputs(operation: Any) -> list[Any]:
    """Return the tensors that the operation gave, each time that it was called."""
    return [tensor for node in operation._inbound_nodes for tensor in node.outputs]


def has_mask(tensor: Any) -> bool:
    """Whether a mask goes along with the tensor, unseen by the graph."""
    return getattr(tensor, "_keras_mask", None) is not None


def count_on_every_replica(optimizer: Any) -> None:
    """Let each replica count the steps itself: Keras's own counter is the first one's, and the others would wait."""
    optimizer._untrack_variable(optimizer.iterations)
    optimizer._iterations = optimizer.add_variable((), dtype="int64", name="iteration")


def trained_weights(optimizer: Any) -> list[Any]:
    """Return the weights for which the optimizer was built; what it keeps itself would count as its variables."""
    return list(optimizer._trainable_variables)
