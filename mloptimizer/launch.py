"""Puts the parts together for each command; the only module that knows them all."""

import concurrent.futures
import concurrent.futures.process
import importlib.metadata
import multiprocessing
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mloptimizer.augmented_spaces import with_augmentation
from mloptimizer.continuation import continue_study
from mloptimizer.datasets.library import list_datasets, prepare_dataset
from mloptimizer.engines.base import Engine
from mloptimizer.engines.fork_server import start_fork_server
from mloptimizer.engines.process import ProcessEngine
from mloptimizer.errors import RunError, UsageError, unknown_name
from mloptimizer.files import file_error, hold_lock, write_json, write_text
from mloptimizer.hardware.machine import available_memory_mb, list_cpus
from mloptimizer.hardware.nvml import list_gpus
from mloptimizer.metrics_store import MetricsStore
from mloptimizer.phases import Job
from mloptimizer.recorder import Recorder
from mloptimizer.records import DatasetInfo, Objective, Slot, to_json
from mloptimizer.reports.standings import find_study, find_winner
from mloptimizer.requirements import check_images, check_machine
from mloptimizer.search import Interruptible, Observer, SearchRun, SearchSummary, run_search
from mloptimizer.setting_values import make_settings
from mloptimizer.settings import Settings
from mloptimizer.settings_file import read_settings_file, render_settings_file
from mloptimizer.slots import plan_slots
from mloptimizer.spaces import SearchSpace, builtin_folder, read_spaces
from mloptimizer.study.storage import hide_secrets, open_storage
from mloptimizer.study.study import list_study_names, open_study
from mloptimizer.tuning import apply_tuning
from mloptimizer.tuning_plans import find_tuned
from mloptimizer.worker import PRELOAD, export_trained, run_plan
from mloptimizer.workspace import Workspace, check_study_name


@dataclass(frozen=True)
class SearchRequest:
    """What a person asks a search for; what is missing comes from the study that is continued, or the workspace."""

    workspace: Workspace
    dataset: str | None = None
    study: str | None = None
    assignments: Mapping[str, object] = field(default_factory=dict)  # settings stated for this search
    explore_only: bool = False
    profile_trial: int | None = None  # number of the exploration trial of which TensorBoard shows a profile


@dataclass(frozen=True)
class PreparedSearch:
    """A search whose settings, names and spaces have been checked."""

    name: str
    dataset: str
    settings: Settings
    seed: int
    spaces: Sequence[SearchSpace]
    continued: bool
    fingerprint: str = ""  # of the data that a continued study has been searching
    tuned: Mapping[str, object] | None = None  # by setting, what a continued study was tuned to; None: not yet


def prepare_search(request: SearchRequest) -> PreparedSearch:
    """Check all that can be checked before anything is created.

    Raises:
        UsageError: a name or value is not possible, here or on this machine.
    """
    stated = read_settings_file(request.workspace.settings_file)
    if request.study and request.workspace.study_file(request.study).is_file():
        name = check_study_name(request.study)
        old = continue_study(request.workspace, name, request.dataset, request.assignments, stated)
        prepared = PreparedSearch(
            name, old.dataset, old.settings, old.seed, old.spaces, True, old.fingerprint, old.tuned
        )
    else:
        prepared = _begin(request, stated)
    check_machine(prepared.settings, list_gpus())
    _most_gpus(prepared.settings)
    return prepared


def _begin(request: SearchRequest, stated: Settings) -> PreparedSearch:
    settings = make_settings(request.assignments, "settings", stated)
    if not request.dataset:
        names = ", ".join(summary.name for summary in list_datasets())
        raise UsageError(f"--dataset: a new study needs a data set. Known: {names}.")
    known = [summary.name for summary in list_datasets()]
    if request.dataset not in known:
        raise unknown_name("--dataset", "data set", request.dataset, known)
    taken = list_study_names(settings.storage, request.workspace.journal)
    if request.study in taken:
        raise UsageError(
            f"--study {request.study}: the storage has such a study, but this workspace has no records of it. "
            "Continue it in its own workspace, or choose another name."
        )
    name = check_study_name(request.study or _free_name(request, taken))
    seed = random.SystemRandom().randrange(2**31) if settings.seed == "auto" else settings.seed
    spaces = read_spaces(settings.spaces, request.workspace.search_spaces)
    return PreparedSearch(name, request.dataset, settings, seed, spaces, continued=False)


def _free_name(request: SearchRequest, taken: Collection[str]) -> str:
    """Return the data set's name, with a number if a study of this workspace or storage has it already."""
    name, number = str(request.dataset), 1
    while name in taken or request.workspace.study_file(name).exists():
        number += 1
        name = f"{request.dataset}-{number}"
    return name


def _most_gpus(settings: Settings) -> Slot:
    """Return a slot with as many GPUs as a trial may get: all, when it is the last one."""
    return plan_slots(list_gpus(), list_cpus(), available_memory_mb(), 1, settings)[0][0]


def launch_search(
    request: SearchRequest, prepared: PreparedSearch, observer: Observer, interruptible: Interruptible
) -> SearchSummary:
    """Run the search to its end.

    Raises:
        UsageError, RunError: it could not run, or no trial was completed.
        KeyboardInterrupt: the person stopped it; everything is recorded.
    """
    workspace, name, settings = request.workspace, prepared.name, prepared.settings
    busy = f"study '{name}': process {{pid}} searches it already. Wait for it, or stop it with Ctrl-C there."
    dataset = prepare_dataset(prepared.dataset, settings.validation_fraction, prepared.seed, settings.train_limit)
    if prepared.fingerprint not in ("", dataset.fingerprint):
        raise UsageError(
            f"study '{name}': the images of {prepared.dataset} have changed since it began, so its values could not be "
            "compared with new ones. Put the old images back, or start a new study."
        )
    check_images(settings, _most_gpus(settings), dataset.train_size)
    if settings.start_method != "spawn":
        start_fork_server(PRELOAD)  # imports TensorFlow meanwhile
    with hold_lock(workspace.driver_lock(name), busy):
        study = open_study(
            settings.storage, workspace.journal, name, settings, prepared.seed, Objective(settings.objective)
        )
        store = MetricsStore(workspace, name)
        store.write_study(_facts(prepared, dataset), {space.name: space.source for space in prepared.spaces})
        recorder = Recorder(workspace, name, store)
        settings, choices = apply_tuning(workspace, dataset, settings, kept=prepared.tuned)
        tuned = find_tuned(prepared.settings, settings)
        if prepared.tuned is None:
            store.write_study(_facts(replace(prepared, tuned=tuned), dataset), {})
        for choice in choices:
            recorder.note(choice)
        searched = map(with_augmentation, prepared.spaces) if settings.augmentation == "search" else prepared.spaces
        spaces = {space.name: space for space in searched}
        job = Job(
            name, study, spaces, dataset, settings, prepared.seed, workspace, store, request.profile_trial, tuple(tuned)
        )

        def make_engine(trials: int) -> Engine:
            slots, decision = plan_slots(list_gpus(), list_cpus(), available_memory_mb(), trials, settings)
            recorder.note(decision)
            return ProcessEngine(slots, run_plan, settings.start_method, PRELOAD)

        run = SearchRun(job, make_engine, recorder, observer, interruptible)
        summary = run_search(run, request.explore_only)
    if summary.winner is None:
        raise RunError(_why_no_winner(store, name))
    return summary


def _why_no_winner(store: MetricsStore, name: str) -> str:
    records = store.trials()
    failures = [record.result["failure"] for record in records if record.result.get("failure")]
    first = f" The first failed with {failures[0]['kind']}: {failures[0]['message']}." if failures else ""
    return f"study '{name}': none of its {len(records)} trials was completed.{first} See: mloptimizer show {name}."


def open_workspace_storage(workspace: Workspace, assignments: Mapping[str, object]) -> object:
    """Return the Optuna storage that the settings name, for the dashboard.

    Raises:
        UsageError: it cannot be opened, or the workspace has no study yet.
    """
    settings = make_settings(assignments, "settings", read_settings_file(workspace.settings_file))
    if not settings.storage and not workspace.journal.is_file():
        raise UsageError(
            f"{workspace.journal}: no study yet. Start with: mloptimizer search --dataset digits --trials 12"
        )
    return open_storage(settings.storage, workspace.journal)


def _facts(prepared: PreparedSearch, dataset: DatasetInfo) -> Mapping[str, object]:
    settings = prepared.settings.model_dump(mode="json")
    tuned = {} if prepared.tuned is None else {"tuned": prepared.tuned}
    return {
        "study": prepared.name,
        "mloptimizer": importlib.metadata.version("mloptimizer"),
        "updated_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": prepared.seed,
        "spaces": [space.name for space in prepared.spaces],
        "storage": hide_secrets(settings.pop("storage")),
        "settings": settings,
        **tuned,
        "dataset": to_json(dataset),
    }


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
    source = store.read_space(record.plan["space"])
    facts = _in_own_process(export_trained, record.plan, source, str(weights), str(target / "model.keras"))
    write_json(target / "parameters.json", {"space": record.plan["space"], **record.plan["params"]})
    verdicts = [reading for reading in store.verdicts() if (reading["trial"], reading["phase"]) == (number, phase)]
    metrics = {"study": study, "trial": number, "phase": phase.value, "validation": record.result["metrics"]}
    write_json(target / "metrics.json", {**metrics, "test": verdicts[-1] if verdicts else None, "export": facts})
    return {"trial": number, "phase": phase, **facts}


def _in_own_process(function: Callable[..., Mapping[str, object]], *arguments: object) -> Mapping[str, object]:
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(function, *arguments).result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RunError("export: its process died, often for want of memory. Nothing was exported.") from error


def launch_init(folder: Path) -> tuple[list[Path], list[Path]]:
    """Make the folder a workspace; return the files written and those that were there and stay as they are."""
    workspace = Workspace(folder)
    texts = {workspace.settings_file: render_settings_file()}
    for path in sorted(builtin_folder().glob("*.py")):
        texts[workspace.search_spaces / path.name] = path.read_text(encoding="utf-8")
    written, kept = [], []
    for path, text in texts.items():
        if path.exists():
            kept.append(path)
        else:
            write_text(path, text)
            written.append(path)
    return written, kept
