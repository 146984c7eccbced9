"""Puts the parts together for each command; the only module that knows them all."""

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mloptimizer.app.machines import Machines, open_machines
from mloptimizer.app.preparation import PreparedSearch, SearchRequest, largest_slot
from mloptimizer.app.requirements import check_images
from mloptimizer.cli.display import describe_enqueued, describe_warm_start
from mloptimizer.config.settings_file import read_settings_file, render_settings_file
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.files import Wait, waiting_for_room, write_text
from mloptimizer.core.interrupts import Interruptible
from mloptimizer.core.listener import Observer
from mloptimizer.core.nouns import DatasetInfo, Decision, Objective, Phase, to_json
from mloptimizer.core.versions import installed_version
from mloptimizer.data.library import prepare_dataset
from mloptimizer.engines.contract import Engine
from mloptimizer.hardware.analysis.grid import find_grid
from mloptimizer.hardware.read.machine_facts import remember_machines
from mloptimizer.reports.terminal.diagnosis_page import describe_main_finding
from mloptimizer.search.budgets import RUN_SETTINGS, Budgets, folder_mb
from mloptimizer.search.control import Control, SearchRun
from mloptimizer.search.disk_watch import DiskWatch
from mloptimizer.search.job import Goal, Job
from mloptimizer.search.search_run import SearchSummary, run_search
from mloptimizer.search.waiting import Waiting
from mloptimizer.spaces.augmented import with_augmentation
from mloptimizer.spaces.space_files import SearchSpace, builtin_folder
from mloptimizer.store.recorder import Recorder
from mloptimizer.store.trial_records import MetricsStore
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.answers import Answers, complete_configuration
from mloptimizer.study.storage import hide_secrets, open_storage
from mloptimizer.study.study import Study, open_study
from mloptimizer.tuning.plans import find_tuned
from mloptimizer.tuning.tune import apply_tuning


def launch_search(
    request: SearchRequest, prepared: PreparedSearch, observer: Observer, interruptible: Interruptible
) -> SearchSummary:
    """Run the search, which `claim_study` has given to this process, to its end.

    Raises:
        UsageError, RunError: it could not run, or no trial was completed.
        KeyboardInterrupt: the person stopped it; everything is recorded.
    """
    workspace, name, settings = request.workspace, prepared.name, prepared.settings
    dataset = prepare_dataset(prepared.dataset, settings.validation_fraction, prepared.seed, settings.train_limit)
    if prepared.fingerprint not in ("", dataset.fingerprint):
        raise UsageError(
            f"study '{name}': the images of {prepared.dataset} have changed since it began, so its values could not be "
            "compared with new ones. Put the old images back, or start a new study."
        )
    grid = find_grid(settings.grid_co2)
    check_images(settings, largest_slot(settings), dataset.train_size)
    prepared = replace(prepared, answers=_complete(prepared, dataset))
    store = MetricsStore(workspace, name)
    store.remove_leftovers()
    budgets = Budgets(settings, time.monotonic, lambda: folder_mb(*workspace.folders(name)))
    wait = Waiting(budgets, observer, interruptible)
    with waiting_for_room(wait), open_machines(settings, observer.notice) as machines:
        job = _open_job(request, prepared, dataset, store, observer, wait)
        recorder = Recorder(workspace, name, store, grid.g_per_kwh)
        recorder.note(Decision(None, "CO2 of a kWh", f"{grid.g_per_kwh:g} g", grid.source))
        with contextlib.closing(recorder):
            control = _make_control(job, budgets, wait)
            run = _make_run(job, recorder, control, observer, interruptible, machines)
            run.held_seconds = wait.held_seconds
            summary = run_search(run, request.explore_only)
    if summary.winner is None and not summary.stopped:
        raise RunError(_why_no_winner(store, name))
    return replace(summary, hardware=describe_main_finding(workspace, name))


def _open_job(
    request: SearchRequest,
    prepared: PreparedSearch,
    dataset: DatasetInfo,
    store: MetricsStore,
    observer: Observer,
    wait: Wait,
) -> Job:
    """Open the study, and write down what is searched and how."""
    workspace, name, settings = request.workspace, prepared.name, prepared.settings
    objective = Objective(settings.objective)
    study = open_study(settings.storage, workspace.journal, name, settings, prepared.seed, objective, wait=wait)
    for phase, result in study.given_up:
        store.finish(phase, result)
    machines = remember_machines(store.read_study() if prepared.continued else {}, _now())
    sources = {space.name: space.source for space in prepared.spaces}
    store.write_study(_facts(prepared, dataset, machines), sources)
    settings, choices = apply_tuning(workspace, dataset, settings, kept=prepared.tuned)
    tuned = find_tuned(prepared.settings, settings)
    if prepared.tuned is None:
        store.write_study(_facts(replace(prepared, tuned=tuned), dataset, machines), {})
    recorder = Recorder(workspace, name, store)
    for choice in choices:
        recorder.note(choice)
    spaces = {space.name: space for space in _searched_spaces(prepared)}
    _take_over(study, prepared, dataset, observer)
    goal = Goal(settings.trials)
    return Job(
        name,
        study,
        spaces,
        dataset,
        settings,
        prepared.seed,
        workspace,
        store,
        goal,
        request.profile_trial,
        tuple(tuned),
    )


def _searched_spaces(prepared: PreparedSearch) -> list[SearchSpace]:
    searched = prepared.settings.augmentation == "search"
    return [with_augmentation(space) if searched else space for space in prepared.spaces]


def _complete(prepared: PreparedSearch, dataset: DatasetInfo) -> tuple[Answers, ...]:
    """Return the configurations that are to be tried first as their spaces take them, before anything is created."""
    answers = []
    for number, configuration in enumerate(prepared.configurations, start=1):
        try:
            answers.append(complete_configuration(configuration, _searched_spaces(prepared), dataset))
        except UsageError as error:
            raise UsageError(f"--enqueue, configuration {number}: {error}") from error
    return tuple(answers)


def _take_over(study: Study, prepared: PreparedSearch, dataset: DatasetInfo, observer: Observer) -> None:
    """Let the study have what the person and an earlier study know, and tell how much that is."""
    spaces, settings = _searched_spaces(prepared), prepared.settings
    fresh = study.enqueue(prepared.answers, spaces, dataset)
    if prepared.answers:
        observer.notice(describe_enqueued(fresh, len(prepared.answers)))
    if prepared.earlier:
        brought = study.warm_start(prepared.earlier, spaces, dataset, settings.hall_of_fame_size)
        observer.notice(describe_warm_start(prepared.earlier.name, brought))
        fresh += brought.enqueued
    left = settings.trials - len(study.outcomes())
    if left < fresh:
        observer.notice(
            f"Only {max(left, 0)} of {settings.trials} trials are left for them; --trials +N explores more."
        )


def _make_control(job: Job, budgets: Budgets, waiting: Waiting) -> Control:
    workspace, settings = job.workspace, job.settings

    def free_mb() -> float:
        return shutil.disk_usage(workspace.metrics).free / 2**20

    disk = DiskWatch(workspace.metrics, free_mb, settings.min_free_disk_mb)
    return Control(job, budgets, disk, job.store.remember_trials, waiting.look)


def _make_run(
    job: Job, recorder: Recorder, control: Control, observer: Observer, interruptible: Interruptible, machines: Machines
) -> SearchRun:
    def make_engine(trials: int, phase: Phase) -> Engine:
        return machines.make_engine(run, trials, phase)

    run = SearchRun(job, make_engine, recorder, observer, control, interruptible)
    run.memory_percent = machines.memory_percent
    if job.settings.trials_per_gpu == "auto":
        for record in job.store.trials():  # what earlier runs have estimated
            run.gpu_needs.learn(record.result.get("memory_mb") or 0.0)
    return run


def _why_no_winner(store: MetricsStore, name: str) -> str:
    records = store.trials()
    failures = [record.result["failure"] for record in records if record.result.get("failure")]
    first = f" The first failed with {failures[0].get('kind')}: {failures[0].get('message')}." if failures else ""
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


def _facts(prepared: PreparedSearch, dataset: DatasetInfo, machines: Mapping[str, object]) -> Mapping[str, object]:
    settings = prepared.settings.model_dump(mode="json", exclude=set(RUN_SETTINGS))
    tuned = {} if prepared.tuned is None else {"tuned": prepared.tuned}
    return {
        "study": prepared.name,
        "mloptimizer": installed_version("mloptimizer"),
        "updated_utc": _now(),
        "seed": prepared.seed,
        "spaces": [space.name for space in prepared.spaces],
        "storage": hide_secrets(settings.pop("storage")),
        "settings": settings,
        **tuned,
        "dataset": to_json(dataset),
        **machines,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
