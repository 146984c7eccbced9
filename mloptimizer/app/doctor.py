"""Checks whether this machine and this workspace can run a search, and says what to do if they cannot.

It changes nothing except a torn last line of the journal, which it cuts off. TensorFlow runs in a process of its own. A
machine without a GPU is fine.
"""

import multiprocessing
import platform
import shutil
from pathlib import Path

from mloptimizer.app.environment import examine_environment
from mloptimizer.app.package_checks import check_packages, check_python, read_metadata
from mloptimizer.app.probe_checks import check_tensorflow, run_probe
from mloptimizer.config.settings import Settings
from mloptimizer.core.check import Check
from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.locks import check_locks
from mloptimizer.core.secrets import hide_secrets
from mloptimizer.core.study_names import HALL_OF_FAME_SUFFIX
from mloptimizer.core.system_errors import file_error
from mloptimizer.data.decoded_cache import cache_folder
from mloptimizer.data.library import list_datasets
from mloptimizer.engines.slots import MEMORY_PER_WORKER_MB
from mloptimizer.hardware.read.machine import available_memory_mb, list_cpus, total_memory_mb
from mloptimizer.hardware.read.nvml import list_gpus
from mloptimizer.hardware.read.vendors import describe_unused
from mloptimizer.spaces.space_files import find_spaces, read_space
from mloptimizer.store.workspace import Workspace
from mloptimizer.study.storage import open_storage

_SCARCE_GB, _TIGHT_GB = 0.5, 5.0


def examine_machine(workspace: Workspace, settings: Settings) -> list[Check]:
    """Return every check, in the order in which a person would fix problems; takes seconds, for TensorFlow."""
    facts = run_probe()
    gpus, about = list_gpus(), read_metadata()
    return [
        check_python(platform.python_version(), about),
        check_packages(about),
        examine_environment(),
        *check_tensorflow(facts, gpus, settings, describe_unused()),
        _check_start_method(settings),
        check_storage(workspace, settings),
        _check_spaces(workspace),
        _check_folder("workspace", workspace.root),
        _check_folder("data cache", cache_folder()),
        _check_memory(),
        _check_datasets(),
    ]


def _check_start_method(settings: Settings) -> Check:
    possible, stated = multiprocessing.get_all_start_methods(), settings.start_method
    wanted = "forkserver" if stated == "auto" else stated
    if wanted in possible:
        return Check("start method", True, f"{wanted} ({'auto' if stated == 'auto' else 'setting'})")
    if stated == "auto":
        return Check("start method", None, "spawn: this system has no forkserver, so trials start more slowly")
    return Check("start method", False, f"{wanted} is not possible here", "--set start_method=auto")


def check_storage(workspace: Workspace, settings: Settings) -> Check:
    """Return whether the studies' storage opens and can be locked; a missing one is not created."""
    url, journal = settings.storage, workspace.journal
    place = hide_secrets(url) if url else str(journal)
    if not url and not journal.exists():
        return Check("storage", True, f"{place}: not there yet, the first search creates it")
    try:
        storage = open_storage(url, journal, read_only=_is_absent_file(url))
        names = [study.study_name for study in storage.get_all_studies()]
    except MloptimizerError as error:
        return Check("storage", False, str(error))
    count = sum(not name.endswith(HALL_OF_FAME_SUFFIX) for name in names)
    return Check("storage", True, f"{place}: opens, {count} {'study' if count == 1 else 'studies'}")


def _is_absent_file(url: str) -> bool:
    path = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else url
    return "://" not in path and bool(path) and not Path(path).exists()


def _check_spaces(workspace: Workspace) -> Check:
    broken = []
    paths = find_spaces(workspace.search_spaces)
    for name, path in paths.items():
        try:
            read_space(name, path)
        except MloptimizerError as error:
            broken.append(str(error))
    if broken:
        return Check("search spaces", False, " ".join(broken), "fix it, or remove the file")
    return Check("search spaces", True, ", ".join(paths))


def _check_folder(name: str, folder: Path) -> Check:
    there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
    try:
        free_gb = shutil.disk_usage(there).free / 1e9
        check_locks(there)
    except OSError as error:
        return Check(name, False, str(file_error(folder, error)))
    found = f"{folder.absolute()}: {free_gb:.1f} GB free"
    if free_gb < _SCARCE_GB:
        return Check(name, False, found, "free some space")
    return Check(name, None, found, "that may become tight") if free_gb < _TIGHT_GB else Check(name, True, found)


def _check_memory() -> Check:
    free, cores = available_memory_mb(), len(list_cpus())
    found = f"{free:,} of {total_memory_mb():,} MB free, {cores} cores; a trial takes about {MEMORY_PER_WORKER_MB:,} MB"
    advice = "close other programs" if free < MEMORY_PER_WORKER_MB else ""
    return Check("memory", not advice, found, advice)


def _check_datasets() -> Check:
    places = list_datasets()
    here, absent = ([name for name in places if bool(places[name]) is found] for found in (True, False))
    found = f"on this machine: {', '.join(here) or 'none'}"
    return Check("data sets", True, found + (f"; downloaded when used: {', '.join(absent)}" if absent else ""))
