"""Gives a study to one search at a time."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from mloptimizer.app.preparation import PreparedSearch, SearchRequest, free_name
from mloptimizer.core.locks import HeldError, hold_lock
from mloptimizer.store.orders import take_orders
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.earlier import list_stored_studies


@contextlib.contextmanager
def claim_study(request: SearchRequest, prepared: PreparedSearch) -> Iterator[PreparedSearch]:
    """Hold the study within the block; what other terminals tell this search counts from now on.

    A name that the program has chosen and another search has taken meanwhile becomes the next free one: the search is
    returned with the name that it has got.

    Raises:
        UsageError: another search holds the study, or its folder cannot be written.
    """
    workspace, taken = request.workspace, set[str]()
    with contextlib.ExitStack() as stack:
        while not _take(stack, workspace, prepared.name, is_chosen=request.study is None):
            taken |= {prepared.name, *list_stored_studies(prepared.settings.storage, workspace.journal)}
            prepared = replace(prepared, name=free_name(request, taken))
        take_orders(workspace.orders(prepared.name))  # what was told to an earlier search is not for this one
        yield prepared


def _take(stack: contextlib.ExitStack, workspace: Workspace, name: str, is_chosen: bool) -> bool:
    """Let the stack hold the study; False: its name was chosen for it, and is another search's."""
    busy = f"study '{name}': {{holder}}, searches it already. Wait for it, or: mloptimizer stop {name}"
    with contextlib.ExitStack() as attempt:
        try:
            attempt.enter_context(hold_lock(workspace.driver_lock(name), busy))
        except HeldError:
            if is_chosen:
                return False
            raise
        if is_chosen and workspace.study_file(name).exists():  # begun, and done, meanwhile
            return False
        attempt.callback(_remove_unused, workspace, name)
        stack.push(attempt.pop_all())
    return True


def _remove_unused(workspace: Workspace, name: str) -> None:
    """Remove the study's folder where nothing but its lock has come into it; the lock is still held."""
    with contextlib.suppress(OSError):
        if [path.name for path in workspace.study(name).iterdir()] == [workspace.driver_lock(name).name]:
            workspace.driver_lock(name).unlink()
            workspace.study(name).rmdir()
            workspace.metrics.rmdir()
