"""Ray's private API that `ray_internals` relies on; a version that changes it fails here."""

import inspect

import pytest
import ray
from ray._private import node, ray_constants, services, state, utils, worker

from mloptimizer.engines.ray.ray_internals import prepare_ray


@pytest.mark.parametrize(
    ("user", "used"),
    [
        (worker, "print_to_stdstream("),
        (worker, "ray._private.utils.get_entrypoint_name()"),
        (worker, "ray._private.utils.set_sigterm_handler("),
        (services, "ray_constants.ENABLE_RAY_CLUSTER"),
        (node, "ray_constants.NUM_REDIS_GET_RETRIES"),
    ],
)
def test_ray_uses_what_is_replaced_by_the_name_under_which_it_is(user: object, used: str) -> None:
    assert used in inspect.getsource(user)  # type: ignore[arg-type]


def test_ray_is_prepared_and_no_longer_sends_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in (
        (ray_constants, "ENABLE_RAY_CLUSTER"),
        (ray_constants, "NUM_REDIS_GET_RETRIES"),
        (worker, "print_to_stdstream"),
        (utils, "get_entrypoint_name"),
        (utils, "set_sigterm_handler"),
    ):
        monkeypatch.setattr(place, name, getattr(place, name))  # which puts it back
    prepare_ray("127.0.0.1:6379")
    assert (ray_constants.ENABLE_RAY_CLUSTER, ray_constants.NUM_REDIS_GET_RETRIES) == (True, 5)
    assert utils.get_entrypoint_name() == "mloptimizer"
    assert ray._raylet.Config is not None


def test_the_machines_that_are_to_leave_are_asked_for_by_this_name() -> None:
    assert inspect.signature(state.GlobalState.get_draining_nodes).parameters.keys() == {"self"}
    assert isinstance(state.state, state.GlobalState)
