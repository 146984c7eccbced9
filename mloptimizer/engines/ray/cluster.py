"""Connects to a Ray cluster, or starts one on this machine that nobody else can use.

Guarantees: token authentication is on unless the person turned it off; a cluster started here listens only on
127.0.0.1, keeps its token in a file of mode 0600, has no dashboard, and ends with this process; nothing is sent to
Ray's makers.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.import_path import guard_children
from mloptimizer.core.interrupts import deferred
from mloptimizer.core.words import in_a_line
from mloptimizer.engines.process.fork_server import stderr_muted
from mloptimizer.engines.ray.shapes import Node
from mloptimizer.hardware.read.machine import list_cpus
from mloptimizer.hardware.read.nvml import list_gpus

_MB = 2**20
_REACH_SECONDS = 5.0  # for a head to accept a connection: Ray itself tries for minutes
_STORE_MB = 512  # object store of a cluster on this machine: checkpoints pass through it one by one
_TOKEN_PLACES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",  # prints in the terminal that slots wait for room, which is normal
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Within the block, be a driver of the cluster at the address: local, auto, or HOST:PORT.

    Raises:
        UsageError: the address is invalid, Ray is not installed, or there is no token for the cluster.
        RunError: there is no such cluster, or it rejects the token.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("engine = ray: needs the extra 'ray'. Install it: pip install 'mloptimizer[ray]'.")
    guard_children()
    head = _find_head(address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(_environment(address, stack)))
        import ray

        from mloptimizer.engines.ray.ray_internals import prepare_ray

        prepare_ray(address)
        if head:
            _reach(address, *head)
        with deferred():
            _init(ray, address)
            stack.callback(ray.shutdown)
        yield


def _init(ray: Any, address: str) -> None:
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address == "local":
            ray.init("local", num_cpus=len(list_cpus()), num_gpus=len(list_gpus()), include_dashboard=False,
                     object_store_memory=_STORE_MB * _MB, **common)  # fmt: skip
        else:
            with stderr_muted():  # Ray warns of a wrong token at every try, before it can be configured not to
                ray.init(address, **common)
    except ray.exceptions.AuthenticationError as error:
        ray.shutdown()
        raise UsageError(f"--address {address}: its token cannot be used: {in_a_line(error, 300)}") from error
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        ray.shutdown()
        reason = in_a_line(error, 300)
        if address == "local":
            raise RunError(f"engine = ray: no cluster can be started here: {reason}.") from error
        raise RunError(
            f"--address {address}: no Ray cluster answers there, or it has another token, or this machine is not in it "
            f"({type(error).__name__}: {reason}). Possible: `ray start --num-cpus=0 --address=…` here first."
        ) from error


def _find_head(address: str) -> tuple[str, int] | None:
    """Return the head's host and port; None if Ray finds them. Raises UsageError: the address is invalid."""
    stated = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if stated in ("", "auto", "local"):
        return None
    host, _, port = stated.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        place = "RAY_ADDRESS" if address == "auto" else "--address"
        raise UsageError(f"{place} {stated}: is not the address of a Ray cluster. Possible: auto, local, or HOST:PORT.")
    return host.strip("[]"), int(port)


def _reach(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        advice = "Is its head started with `ray start --head`, and is the port open?"
        raise RunError(f"--address {address}: nothing answers at {host}, port {port} ({error}). {advice}") from error


def _environment(address: str, stack: contextlib.ExitStack) -> dict[str, str]:
    """Return the variables that Ray needs in the environment; a person's own values take precedence."""
    variables = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    uses_token = os.environ.get("RAY_AUTH_MODE", "token") == "token"
    lacks_token = uses_token and not any(name in os.environ for name in _TOKEN_PLACES)
    if address == "local":
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: listen on 127.0.0.1 only
        if lacks_token:
            variables["RAY_AUTH_TOKEN_PATH"] = str(_write_token(stack))
    elif lacks_token and not default_token().is_file():
        raise UsageError(
            f"--address {address}: there is no token for the cluster. Possible: copy its ~/.ray/auth_token here, or "
            "set RAY_AUTH_TOKEN_PATH; RAY_AUTH_MODE=disabled for a cluster without authentication; --address local for "
            "one on this machine."
        )
    return variables


def default_token() -> Path:
    """Return the file in which Ray looks for a token by default."""
    return Path.home() / ".ray" / "auth_token"


def _write_token(stack: contextlib.ExitStack) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mloptimizer-ray-"))  # mode 0700
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    handle = os.open(folder / "auth_token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return folder / "auth_token"


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Set these environment variables within the block: the processes of a local cluster inherit them."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def list_nodes() -> list[Node]:
    """Return the machines of the cluster, except those that are about to leave."""
    import ray

    from mloptimizer.engines.ray.ray_internals import list_leaving

    leaving, nodes = list_leaving(), []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in leaving:
            cpus, gpus, memory = (node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "memory"))
            nodes.append(Node(node["NodeID"], node["NodeManagerHostname"], cpus, gpus, memory / _MB))
    return nodes
