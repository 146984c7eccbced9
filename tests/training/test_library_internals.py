"""What TensorFlow and Keras keep to themselves and the adapters rely on; a version that changes it fails here."""

import inspect

import keras
import pytest
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops as iterators

from mloptimizer.training.keras_internals import (
    all_layers,
    all_outputs,
    graph_nodes,
    has_mask,
    is_network,
    trained_weights,
)
from mloptimizer.training.step.optimizers import UPDATE_RULES, FlatOptimizer
from mloptimizer.training.tensorflow_internals import leave_device_buffers_untuned


@pytest.fixture(scope="module")
def network() -> keras.Model:
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.layers.Dense(4, name="inner"), keras.layers.ReLU()], name="nested")
    outputs = inner(shared(shared(inputs)))
    return keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(2, name="wrapped"))(outputs[:, None]))


def test_the_nodes_of_a_graph_are_in_an_order_of_computation(network: keras.Model) -> None:
    nodes, known = graph_nodes(network), set[int]()
    for node in nodes:
        assert node.is_input or {id(tensor) for tensor in node.input_tensors} <= known
        known |= {id(tensor) for tensor in node.outputs}
    assert id(network.outputs[0]) in known
    assert [node.operation.name for node in nodes].count("shared") == 2


def test_networks_within_a_network_are_distinguished_from_its_layers(network: keras.Model) -> None:
    assert (is_network(network), is_network(network.get_layer("shared"))) == (True, False)
    assert {"shared", "inner", "wrapped"} <= {layer.name for layer in all_layers(network)}


def test_every_output_of_a_layer_is_known(network: keras.Model) -> None:
    assert [tuple(tensor.shape) for tensor in all_outputs(network.get_layer("shared"))] == [(None, 4)] * 2


def test_the_mask_of_a_tensor_is_known() -> None:
    inputs = keras.Input((3,))
    embedded = keras.layers.Embedding(5, 2, mask_zero=True)(inputs)
    assert (has_mask(inputs), has_mask(embedded)) == (False, True)


def test_the_counter_of_an_optimizer_is_a_variable_that_every_replica_writes() -> None:
    optimizer = FlatOptimizer(UPDATE_RULES["sgd"], 0.1, 0.0, tf.identity, 0.0)
    counter = optimizer.iterations
    assert [variable.name for variable in optimizer.variables].count("iteration") == 1
    assert any(variable is counter for variable in optimizer.variables)
    assert counter.value.aggregation != tf.VariableAggregation.ONLY_FIRST_REPLICA
    counter.assign(3)
    assert int(optimizer.iterations.value) == 3
    weights = [keras.Variable([1.0])]
    optimizer.build(weights)
    assert trained_weights(optimizer) == weights
    assert not any(variable is weights[0] for variable in optimizer.variables)


def test_the_buffers_on_a_strategys_devices_are_made_where_they_are_left_untuned() -> None:
    assert "_create_device_dataset(" in inspect.getsource(iterators.OwnedMultiDeviceIterator)
    leave_device_buffers_untuned()
    assert iterators._create_device_dataset.__module__ == leave_device_buffers_untuned.__module__
