"""Is the one place that uses what Ray keeps to itself: how it connects, what it prints, and which machines leave.

`tests/engines/test_ray_internals.py` fails when Ray changes any of it.
"""

from typing import Any

import ray
from ray._private import ray_constants, state, utils, worker

_TRIES = 5  # to be let in by a head that takes connections


def prepare_ray(address: str) -> None:
    """Let Ray read the environment as it is now, and keep to what is asked of it; call it before `ray.init`."""
    ray._raylet.Config.initialize("")  # who imported it before us let it read another environment
    ray_constants.ENABLE_RAY_CLUSTER = address != "local"
    if address != "local":
        ray_constants.NUM_REDIS_GET_RETRIES = _TRIES  # a second each; a cluster that is started here takes its time
    worker.print_to_stdstream = _do_nothing  # pages about a node that is lost, into the view of the search for instance
    utils.get_entrypoint_name = _name_entrypoint
    utils.set_sigterm_handler = _do_nothing  # Ray's own leaves the search wherever it is


def list_leaving() -> set[str]:
    """Return the ids of the machines that will be taken away, as spot instances are; Ray calls them draining."""
    return set(state.state.get_draining_nodes())  # no public call tells it


def _name_entrypoint() -> str:
    """Return what the cluster is told of this program: Ray would tell the command line, with the storage's password."""
    return "mloptimizer"


def _do_nothing(*_: Any, **__: Any) -> None: ...
