"""Checks everything about a search that can be checked before anything is created."""

import json
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from mloptimizer.app.continuation import continue_study
from mloptimizer.app.environment import check_environment
from mloptimizer.app.requirements import check_machine
from mloptimizer.app.search_request import PreparedSearch, SearchRequest
from mloptimizer.config.settings import Settings
from mloptimizer.config.settings_file import read_settings_file
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import UsageError, unknown_name
from mloptimizer.core.nouns import Params, Slot
from mloptimizer.core.study_names import check_study_name
from mloptimizer.core.system_errors import file_error
from mloptimizer.data.catalog import CATALOG
from mloptimizer.engines.slots import plan_slots
from mloptimizer.hardware.analysis.grid import find_grid
from mloptimizer.hardware.read.machine import available_memory_mb, list_cpus
from mloptimizer.hardware.read.nvml import Gpu, list_gpus
from mloptimizer.spaces.space_files import read_spaces
from mloptimizer.study.earlier import list_stored_studies, read_earlier_study

_CONFIGURATIONS = '{"space": "NAME", "PARAMETER": VALUE, …}, or a list of these, like parameters.json of an export'


def prepare_search(request: SearchRequest, list_gpus: Callable[[], Sequence[Gpu]] = list_gpus) -> PreparedSearch:
    """Check all that can be checked before anything is created.

    Args:
        list_gpus: of this machine.

    Raises:
        UsageError: a name or value is not possible, at all or on this machine.
    """
    check_environment()
    workspace = request.workspace
    stated = read_settings_file(workspace.settings_file)
    if request.study and workspace.study_file(request.study).is_file():
        prepared = continue_study(request, check_study_name(request.study), stated)
    else:
        prepared = _begin(request, stated)
    settings, gpus = prepared.settings, list_gpus()
    if settings.engine != "ray":  # the machines of a cluster are not known yet
        check_machine(settings, gpus)
        if "ray_address" in request.assignments:
            place = f"ray_address = {request.assignments['ray_address']}"
            raise UsageError(f"{place}: needs engine = ray. Possible: --engine ray, or no address.")
    prepared = replace(prepared, grid=find_grid(settings.grid_co2), largest_slot=_largest_slot(settings, gpus))
    if request.warm_start:
        name, _, url = request.warm_start.partition("@")
        if name == prepared.name and url in ("", settings.storage):
            raise UsageError(f"--warm-start {name}: is this study, which has these trials already. Name another study.")
        earlier = read_earlier_study(url or settings.storage, workspace.journal, name)
        prepared = replace(prepared, earlier=earlier)
    if request.enqueue:
        prepared = replace(prepared, configurations=read_configurations(request.enqueue))
    return prepared


def _begin(request: SearchRequest, stated: Settings) -> PreparedSearch:
    settings = make_settings(request.assignments, "settings", stated)
    if request.more_trials:
        raise UsageError(
            f"--trials +{request.more_trials}: extends an existing study. Name it with --study, or leave out the +."
        )
    if not request.dataset:
        raise UsageError(f"--dataset: a new study needs a data set. Known: {', '.join(CATALOG)}.")
    if request.dataset not in CATALOG:
        raise unknown_name("--dataset", "data set", request.dataset, CATALOG)
    taken = list_stored_studies(settings.storage, request.workspace.journal)
    if request.study in taken:
        raise UsageError(
            f"--study {request.study}: the storage has this study, but this workspace has no records of it. "
            "Resume it in its own workspace, or choose another name."
        )
    name = check_study_name(request.study or free_name(request, taken))
    seed = random.SystemRandom().randrange(2**31) if settings.seed == "auto" else settings.seed
    spaces = read_spaces(settings.spaces, request.workspace.search_spaces)
    return PreparedSearch(name, request.dataset, settings, seed, spaces)


def free_name(request: SearchRequest, taken: Collection[str]) -> str:
    """Return the data set's name, with a number if the name is taken or this workspace has a study of that name."""
    name, number = str(request.dataset), 1
    while name in taken or request.workspace.study_file(name).exists():
        number += 1
        name = f"{request.dataset}-{number}"
    return name


def _largest_slot(settings: Settings, gpus: Sequence[Gpu]) -> Slot:
    """Return a slot with as many GPUs as a trial may get: all, when it is the last one; in a cluster, as stated."""
    if settings.engine == "ray":
        count = 0 if settings.gpus_per_trial == "auto" else settings.gpus_per_trial
        return Slot("ray", gpu_ids=("?",) * count)
    return plan_slots(gpus, list_cpus(), available_memory_mb(), 1, settings)[0][0]


def read_configurations(path: Path) -> tuple[Params, ...]:
    """Return the configurations in the JSON file: one object, or a list of them, as `export` writes them.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise file_error(path, error) from error
    except (ValueError, RecursionError) as error:  # also of bytes that are not text
        raise UsageError(f"--enqueue {path}: is not valid JSON ({error}).") from error
    found = value if isinstance(value, list) else [value]
    if not found:
        raise UsageError(f"--enqueue {path}: holds no configuration. Possible: {_CONFIGURATIONS}.")
    for number, item in enumerate(found, start=1):
        plain = isinstance(item, dict) and all(isinstance(v, (str, int, float, bool)) for v in item.values())
        if not plain or not isinstance(item.get("space"), str):
            raise UsageError(f"--enqueue {path}: entry {number} is not a configuration. Possible: {_CONFIGURATIONS}.")
    return tuple(found)
