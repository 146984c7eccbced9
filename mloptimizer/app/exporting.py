"""Exports the winner of a study, or one of its trials, with the facts that belong to it."""

import concurrent.futures
import concurrent.futures.process
import multiprocessing
from collections.abc import Callable, Mapping
from pathlib import Path

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.files import write_json
from mloptimizer.core.import_path import guard_children
from mloptimizer.core.system_errors import file_error
from mloptimizer.reports.model.standings import find_study, find_winner
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.training.worker import export_trained


def launch_export(workspace: Workspace, study: str, target: Path, number: int | None) -> Mapping[str, object]:
    """Export the winner, or the given trial, as ``model.keras`` with ``parameters.json`` and ``metrics.json``.

    Raises:
        UsageError: there is nothing to export, or the folder cannot be written.
        RunError: the exported model does not compute what the trained one did.
    """
    find_study(workspace, study)
    store = MetricsStore(workspace, study)
    if number is None:
        winner = find_winner(workspace, study)
        if winner is None:
            raise UsageError(f"study '{study}': no trial was completed, so there is no winner to export.")
        number = winner[0]
    kept = store.weights(number)
    if kept is None:
        raise UsageError(
            f"trial {number} of study '{study}': no weights are kept. Possible: trials in the hall of fame."
        )
    weights, phase = kept
    record = store.trial(number, phase)
    if record is None:
        raise UsageError(f"trial {number} of study '{study}': its plan is missing.")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(target, error) from error
    verdicts = [reading for reading in store.verdicts() if (reading["trial"], reading["phase"]) == (number, phase)]
    source = store.read_space(record.plan["space"])
    facts = _in_own_process(export_trained, record.plan, source, str(weights), str(target / "model.keras"))
    write_json(target / "parameters.json", {"space": record.plan["space"], **record.plan["params"]})
    metrics = {"study": study, "trial": number, "phase": phase.value, "validation": record.result.get("metrics")}
    write_json(target / "metrics.json", {**metrics, "test": verdicts[-1] if verdicts else None, "export": facts})
    return {"trial": number, "phase": phase, **facts}


def _in_own_process(function: Callable[..., Mapping[str, object]], *arguments: object) -> Mapping[str, object]:
    guard_children()
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(function, *arguments).result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RunError("export: its process died, often for want of memory. Nothing was exported.") from error
