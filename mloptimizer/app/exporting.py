"""Exports the winner of a study, or one of its trials, with its facts."""

import concurrent.futures.process
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.files import UNFINISHED, read_json, write_json
from mloptimizer.core.import_path import guard_children
from mloptimizer.core.nouns import Phase
from mloptimizer.core.system_errors import file_error
from mloptimizer.reports.model.standings import completed_value, find_study, read_study_record
from mloptimizer.store.metrics_store import MetricsStore, TrialRecord
from mloptimizer.store.workspace import Workspace
from mloptimizer.training.worker import export_trained

MODEL_FILE, PARAMETERS_FILE, METRICS_FILE = FILES = ("model.keras", "parameters.json", "metrics.json")


def launch_export(
    workspace: Workspace, study: str, target: Path, number: int | None, force: bool = False
) -> Mapping[str, Any]:
    """Export the winner, or the given trial, into the folder: all of `FILES` or none; return what METRICS_FILE says.

    Args:
        force: overwrite another export there; the same one is always written again.

    Raises:
        UsageError: there is nothing to export, another export is there, or the folder cannot be written.
        RunError: the exported model does not compute what the trained one did, or Keras alone cannot open it.
    """
    find_study(workspace, study)
    store = MetricsStore(workspace, study)
    record, weights, phase = _choose(workspace, store, study, number)
    settings, about = record.plan.get("settings"), {"study": study, "trial": record.number, "phase": phase.value}
    about["objective"] = settings.get("objective") if isinstance(settings, Mapping) else None
    about |= {"value": completed_value(record), "validation": record.result.get("metrics")}
    _check_target(target, about, force)
    readings = [line for line in store.test_evaluations() if (line["trial"], line["phase"]) == (record.number, phase)]
    there = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".exporting-", suffix=UNFINISHED) as temporary:
            folder = Path(temporary)
            source = store.read_space(record.plan["space"])
            facts = _in_own_process(export_trained, record.plan, source, str(weights), str(folder / MODEL_FILE))
            about |= {"test": readings[-1] if readings else None, "export": facts}
            write_json(folder / PARAMETERS_FILE, {"space": record.plan["space"], **record.plan["params"]})
            write_json(folder / METRICS_FILE, about)
            target.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (folder / name).replace(target / name)
    except OSError as error:
        raise file_error(target, error) from error
    return about


def _choose(
    workspace: Workspace, store: MetricsStore, study: str, number: int | None
) -> tuple[TrialRecord, Path, Phase]:
    """Return the record of the trial, its weights, and their phase."""
    if number is None:
        winner = read_study_record(workspace, study).winner
        if winner is None:
            raise UsageError(f"study '{study}': no trial was completed, so there is no winner to export.")
        number = winner[0]
    kept = store.weights(number)
    record = store.trial(number, kept[1]) if kept else None
    if kept is None or record is None:
        raise UsageError(f"trial {number} of study '{study}': has no weights. Possible: trials in the hall of fame.")
    return record, *kept


def _check_target(target: Path, about: Mapping[str, Any], force: bool) -> None:
    """Refuse to overwrite anything but an earlier export of the same training."""
    found = [name for name in FILES if (target / name).exists()]
    if force or not found:
        return
    try:
        earlier = read_json(target / METRICS_FILE)
    except UsageError:
        earlier = {}
    if not all(name in earlier and earlier[name] == value for name, value in about.items()):
        known = {"trial", "study"} <= set(earlier)
        which = f" (trial {earlier['trial']} of study '{earlier['study']}')" if known else ""
        raise UsageError(f"-o {target}: holds another export{which}. Choose another folder, or add --force.")


def _in_own_process(function: Callable[..., Mapping[str, Any]], *arguments: object) -> Mapping[str, Any]:
    guard_children()
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(function, *arguments).result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RunError("export: its process died, often because memory ran out. Nothing was exported.") from error
