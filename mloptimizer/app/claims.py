"""Lets one search at a time use a study."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from mloptimizer.app.preparation import free_name
from mloptimizer.app.search_request import PreparedSearch, SearchRequest
from mloptimizer.core.locks import HeldError, hold_lock
from mloptimizer.store.orders import take_orders
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.earlier import list_stored_studies


@contextlib.contextmanager
def claim_study(request: SearchRequest, prepared: PreparedSearch) -> Iterator[PreparedSearch]:
    """Hold the study within the block; orders from other terminals count from now on.

    If another search has meanwhile taken the name that the program chose, the returned search has the next free one.

    Raises:
        UsageError: another search holds the study, or its folder cannot be written.
    """
    workspace, taken = request.workspace, set[str]()
    with contextlib.ExitStack() as stack:
        while not _take(stack, workspace, prepared.name, is_chosen=request.study is None):
            taken |= {prepared.name, *list_stored_studies(prepared.settings.storage, workspace.journal)}
            prepared = replace(prepared, name=free_name(request, taken))
        take_orders(workspace.orders(prepared.name))  # those for an earlier search
        yield prepared


def _take(stack: contextlib.ExitStack, workspace: Workspace, name: str, is_chosen: bool) -> bool:
    """Let the stack hold the study; False: another search has the name that the program chose."""
    busy = f"study '{name}': {{holder}}, is searching it already. Wait for it, or: mloptimizer stop {name}"
    with contextlib.ExitStack() as attempt:
        try:
            attempt.enter_context(hold_lock(workspace.driver_lock(name), busy))
        except HeldError:
            if is_chosen:
                return False
            raise
        if is_chosen and workspace.study_file(name).exists():  # it began and ended meanwhile
            return False
        attempt.callback(_remove_unused, workspace, name)
        stack.push(attempt.pop_all())
    return True


def _remove_unused(workspace: Workspace, name: str) -> None:
    """Remove the study's folder if nothing but its lock is in it; the lock is still held."""
    with contextlib.suppress(OSError):
        if [*workspace.study(name).iterdir()] == [workspace.driver_lock(name)]:
            workspace.driver_lock(name).unlink()
            workspace.study(name).rmdir()
            workspace.metrics.rmdir()
