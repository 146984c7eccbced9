"""Puts the parts of a search together: the one place that knows them all but the engines, which `engine_choice` opens.

The command line and the tests call `assemble`, and replace parts as they need.
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mloptimizer.app.claims import claim_study
from mloptimizer.app.engine_choice import OpenMachines, open_machines
from mloptimizer.app.preparation import prepare_search
from mloptimizer.app.requirements import check_images
from mloptimizer.app.search_request import PreparedSearch, SearchRequest
from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.core.events import Decision
from mloptimizer.core.files import Wait, waiting_for_room
from mloptimizer.core.interrupts import Interruptible
from mloptimizer.core.listener import Listener, Listeners, SearchBegan
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Objective, Phase, to_json
from mloptimizer.core.secrets import hide_secrets
from mloptimizer.core.versions import installed_version
from mloptimizer.core.words import counted, utc_now
from mloptimizer.data.library import prepare_dataset
from mloptimizer.engines.deadlines import Absence
from mloptimizer.engines.gpu_memory import ReadUse
from mloptimizer.hardware.read.machine_facts import remember_machines
from mloptimizer.hardware.read.nvml import Gpu, list_gpus
from mloptimizer.reports.terminal.diagnosis_page import describe_main_finding
from mloptimizer.search.budgets import RUN_SETTINGS, Budgets, folder_mb
from mloptimizer.search.control import Control
from mloptimizer.search.disk_watch import DiskWatch
from mloptimizer.search.gpu_sharing import GpuNeeds
from mloptimizer.search.job import Goal, Job
from mloptimizer.search.phase_order import SearchSummary, run_search
from mloptimizer.search.search_run import SearchRun
from mloptimizer.search.waiting import Waiting
from mloptimizer.spaces.augmented import with_augmentation
from mloptimizer.spaces.space_files import SearchSpace
from mloptimizer.store.activity import Activity
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.recorder import Recorder
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.answers import Answers, complete_configuration
from mloptimizer.study.storage import storage_place
from mloptimizer.study.study import open_study
from mloptimizer.tuning.plans import find_tuned
from mloptimizer.tuning.tune import apply_tuning


@dataclass(frozen=True, kw_only=True)
class SearchParts:
    """What a search is made of besides its request; a caller may replace each part."""

    listeners: Sequence[Listener] = ()  # besides those that keep the records
    interruptible: Interruptible = contextlib.nullcontext
    list_gpus: Callable[[], Sequence[Gpu]] = list_gpus  # of this machine
    prepare_dataset: Callable[[str, float, int, int], DatasetInfo] = prepare_dataset
    open_machines: OpenMachines = open_machines
    read_gpus: ReadUse | None = None  # free memory of a GPU now; None: asks NVML
    free_disk_mb: Callable[[Workspace], float] = lambda workspace: shutil.disk_usage(workspace.metrics).free / 2**20
    clock: Callable[[], float] = time.monotonic


def run_request(request: SearchRequest, **parts: Any) -> SearchSummary:
    """Run the search to its end.

    Args:
        parts: `SearchParts` that replace the usual ones.

    Raises:
        UsageError, RunError: it could not run, or no trial was completed.
        KeyboardInterrupt: the person stopped it; everything is recorded.
    """
    with assemble(request, **parts) as run:
        summary = run_search(run)
    if summary.winner is None and not summary.stopped:
        raise RunError(_why_no_winner(run.job.store, summary.study))
    return replace(summary, hardware=describe_main_finding(run.job.workspace, summary.study))


@contextlib.contextmanager
def assemble(request: SearchRequest, **parts: Any) -> Iterator[SearchRun]:
    """Provide a search that is ready to run, with its study locked and its machines open within the block.

    Raises:
        UsageError, RunError: it cannot run; nothing stays locked or open.
    """
    given = SearchParts(**parts)
    with contextlib.ExitStack() as stack:
        prepared = stack.enter_context(claim_study(request, prepare_search(request, given.list_gpus)))
        workspace, name, settings = request.workspace, prepared.name, prepared.settings
        store = MetricsStore(workspace, name)
        recorder = Recorder(workspace, name, store)
        listeners = Listeners(recorder, Activity(workspace.running_file(name)), *given.listeners)
        listeners.search_began(_describe(prepared))
        dataset = _prepare_dataset(prepared, given)
        answers = _complete(prepared, dataset)
        store.remove_leftovers()
        budgets = Budgets(settings, given.clock, lambda: folder_mb(*workspace.folders(name)))
        wait = Waiting(budgets, listeners, given.interruptible)
        stack.enter_context(waiting_for_room(wait))
        machines = stack.enter_context(given.open_machines(settings, listeners))
        job = _open_job(request, prepared, dataset, listeners, wait)
        _feed_study(job, prepared, answers, listeners)
        stack.callback(listeners.search_ended)
        disk = DiskWatch(workspace.metrics, lambda: given.free_disk_mb(workspace), settings.min_free_disk_mb)
        yield SearchRun(
            job=job,
            control=Control(job, budgets, disk, wait.look),
            listeners=listeners,
            make_engine=machines.make_engine,
            summarise=functools.partial(recorder.summarise, prepared.grid.g_per_kwh),
            interruptible=given.interruptible,
            clock=given.clock,
            absent_seconds=Absence().seconds,
            memory_percent=machines.memory_percent,
            gpu_needs=_known_needs(job),
            read_gpus=given.read_gpus,
            explore_only=request.explore_only,
        )


def _describe(prepared: PreparedSearch) -> SearchBegan:
    name, settings = prepared.name, prepared.settings
    what = (name, prepared.dataset, prepared.seed, settings.objective, settings.engine, prepared.continued)
    return SearchBegan(*what, prepared.notes)


def _prepare_dataset(prepared: PreparedSearch, given: SearchParts) -> DatasetInfo:
    settings = prepared.settings
    dataset = given.prepare_dataset(prepared.dataset, settings.validation_fraction, prepared.seed, settings.train_limit)
    if prepared.fingerprint not in ("", dataset.fingerprint):
        raise UsageError(
            f"study '{prepared.name}': the images of {prepared.dataset} have changed since it began, so new values "
            "could not be compared with its own. Restore the old images, or start a new study."
        )
    check_images(settings, prepared.largest_slot, dataset.train_size)
    return dataset


def _open_job(
    request: SearchRequest, prepared: PreparedSearch, dataset: DatasetInfo, listeners: Listener, wait: Wait
) -> Job:
    """Open the study, and record what is searched and how."""
    workspace, name, settings = request.workspace, prepared.name, prepared.settings
    store, objective = MetricsStore(workspace, name), Objective(settings.objective)
    study = open_study(settings.storage, workspace.journal, name, settings, prepared.seed, objective, wait=wait)
    if prepared.continued and study.is_new and (lost := sum(bool(record.result) for record in store.trials())):
        listeners.notice(
            f"study '{name}': {storage_place(settings.storage, workspace.journal)} no longer has it, so its "
            f"{counted(lost, 'recorded trial')} will not count. It starts again, and renames their folders, adding "
            "_until_ and the time. To use them instead, press Ctrl-C and restore that storage."
        )
    for phase, result in study.given_up:
        store.finish(phase, result)
    machines = remember_machines(store.read_study() if prepared.continued else {}, utc_now("seconds"))
    sources = {space.name: space.source for space in prepared.spaces}
    for trial in study.unfinished():
        if trial.space in sources and store.read_space(trial.space) != sources[trial.space]:
            study.give_up(trial.number, Phase.EXPLORATION, "the text of its search space has been fixed since")
    store.write_study(_facts(prepared, dataset, machines), sources)
    settings, choices = apply_tuning(workspace, dataset, settings, kept=prepared.tuned)
    tuned = find_tuned(prepared.settings, settings)
    if prepared.tuned is None:
        store.write_study(_facts(replace(prepared, tuned=tuned), dataset, machines), {})
    for choice in (*choices, Decision(None, "CO2 of a kWh", f"{prepared.grid.g_per_kwh:g} g", prepared.grid.source)):
        listeners.decided(choice)
    return Job(
        name=name,
        study=study,
        spaces={space.name: space for space in _searched_spaces(prepared)},
        dataset=dataset,
        settings=settings,
        seed=prepared.seed,
        workspace=workspace,
        store=store,
        goal=Goal(settings.trials),
        profile_trial=request.profile_trial,
        tuned=tuple(tuned),
    )


def _searched_spaces(prepared: PreparedSearch) -> list[SearchSpace]:
    searched = prepared.settings.augmentation == "search"
    return [with_augmentation(space) if searched else space for space in prepared.spaces]


def _complete(prepared: PreparedSearch, dataset: DatasetInfo) -> list[Answers]:
    """Return the configurations to try first as their spaces take them, before anything is created."""
    answers = []
    for number, configuration in enumerate(prepared.configurations, start=1):
        try:
            answers.append(complete_configuration(configuration, _searched_spaces(prepared), dataset))
        except UsageError as error:
            raise UsageError(f"--enqueue, configuration {number}: {error}") from error
    return answers


def _feed_study(job: Job, prepared: PreparedSearch, answers: Sequence[Answers], listeners: Listener) -> None:
    """Give the study the person's configurations and an earlier study's trials, and report how many there are."""
    study, spaces, settings, dataset = job.study, list(job.spaces.values()), job.settings, job.dataset
    fresh = study.enqueue(answers, spaces, dataset)
    if answers:
        known = len(answers) - fresh
        skipped = f" {known} tried before or waiting already {'is' if known == 1 else 'are'} skipped." if known else ""
        listeners.notice(f"Trying {counted(fresh, 'given configuration')} first.{skipped}")
    if prepared.earlier:
        brought = study.warm_start(prepared.earlier, spaces, dataset, settings.hall_of_fame_size)
        listeners.notice(f"Warm start from '{prepared.earlier.name}': {brought.describe()}.")
        fresh += brought.enqueued
    left = max(settings.trials - len(study.ended()), 0)
    if left < fresh:
        listeners.notice(f"Only {left} of {settings.trials} trials are left for them; --trials +N explores more.")


def _known_needs(job: Job) -> GpuNeeds:
    """Return what earlier runs estimated, if that decides how many trials share a GPU."""
    records = job.store.trials() if job.settings.trials_per_gpu == "auto" else []
    return GpuNeeds(max((record.result.get("memory_mb") or 0.0 for record in records), default=0.0))


def _why_no_winner(store: MetricsStore, name: str) -> str:
    records = store.trials()
    failures = [record.result["failure"] for record in records if record.result.get("failure")]
    last = failures[-1] if failures else {}
    words = f"{last.get('kind')}: {last.get('message')}".rstrip(".")
    the_space = last.get("kind") == FailureKind.SPACE_ERROR  # then trials replace those that failed
    return (
        f"study '{name}': none of its {counted(len(records), 'trial')} was completed."
        f"{f' The last failed with {words}.' if last else ''} See: mloptimizer show {name}. "
        f"Fix {'the space' if the_space else 'the cause'}, then: mloptimizer resume {name}"
        f"{'' if the_space else f' --trials +{max(len(records), 1)}'}."
    )


def _facts(prepared: PreparedSearch, dataset: DatasetInfo, machines: Mapping[str, object]) -> Mapping[str, object]:
    settings = prepared.settings.model_dump(mode="json", exclude=set(RUN_SETTINGS))
    tuned = {} if prepared.tuned is None else {"tuned": prepared.tuned}
    return {
        "study": prepared.name,
        "mloptimizer": installed_version("mloptimizer"),
        "updated_utc": utc_now("seconds"),
        "seed": prepared.seed,
        "spaces": [space.name for space in prepared.spaces],
        "storage": hide_secrets(settings.pop("storage")),
        "settings": settings,
        **tuned,
        "dataset": to_json(dataset),
        **machines,
    }
