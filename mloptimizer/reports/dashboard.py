"""Serves optuna-dashboard for a storage: its pages and its API, without the network.

It reads the storage at every request, so a running search can be watched. Requests are answered in parallel: an idle
connection of a browser blocks nobody. Ctrl-C ends it quietly.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from mloptimizer.core.errors import UsageError


def serve_dashboard(storage: Any, host: str, port: int, announce: Callable[[str], None] | None = None) -> None:
    """Serve until Ctrl-C.

    Args:
        storage: an Optuna storage.
        host: address to listen on; whoever reaches it can read, rename and delete studies.
        port: port to listen on; 0: any free one.
        announce: called with the address of the page once the server listens.

    Raises:
        UsageError: the port is taken, or the address is not one of this machine's.
    """
    with _listen(host, port) as server, contextlib.suppress(KeyboardInterrupt):
        from optuna_dashboard import wsgi

        server.set_app(wsgi(storage))
        if announce:
            announce(f"http://{host}:{server.server_port}/")
        # The request handler writes a line per request to standard error; the dashboard's errors go to the log.
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            while True:
                request, client = server.get_request()
                threading.Thread(target=_answer, args=(server, request, client), daemon=True).start()


def _listen(host: str, port: int) -> WSGIServer:
    server = WSGIServer((host, port), WSGIRequestHandler, bind_and_activate=False)
    server.allow_reuse_port = False  # some Python versions would share the port with another program
    try:
        server.server_bind()
        server.server_activate()
    except (OSError, OverflowError) as error:
        server.server_close()
        reason = getattr(error, "strerror", None) or str(error)
        place = f"dashboard: cannot listen on {host}, port {port}"
        raise UsageError(f"{place}: {reason}. Choose another with --port N or --host ADDRESS.") from error
    return server


def _answer(server: WSGIServer, request: Any, client: Any) -> None:
    try:
        with contextlib.suppress(OSError):  # the browser left before the answer was complete
            server.finish_request(request, client)
    finally:
        server.shutdown_request(request)
