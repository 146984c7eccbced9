"""The one place that uses Ray's private API: how it connects, what it prints, and which machines leave.

`tests/engines/test_ray_internals.py` fails when Ray changes any of it.
"""

from typing import Any

import ray
from ray._private import ray_constants, state, utils, worker

_TRIES = 5  # to be admitted by a head that accepts connections


def prepare_ray(address: str) -> None:
    """Make Ray read the current environment and leave this process's settings alone; call it before `ray.init`."""
    ray._raylet.Config.initialize("")  # an earlier import of Ray may have read another environment
    ray_constants.ENABLE_RAY_CLUSTER = address != "local"
    if address != "local":
        ray_constants.NUM_REDIS_GET_RETRIES = _TRIES  # a second each; a cluster on this machine takes its time
    worker.print_to_stdstream = _do_nothing  # it prints pages about a lost node, even into the search's display
    utils.get_entrypoint_name = _name_entrypoint
    utils.set_sigterm_handler = _do_nothing  # Ray's handler would end the search at any point


def list_leaving() -> set[str]:
    """Return the ids of the machines that will be taken away, as spot instances are; Ray calls them draining."""
    return set(state.state.get_draining_nodes())  # there is no public call


def _name_entrypoint() -> str:
    """Return the program's name for the cluster: Ray would send the command line, with the storage's password."""
    return "mloptimizer"


def _do_nothing(*_: Any, **__: Any) -> None: ...
