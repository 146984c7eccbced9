"""The commands that measure how fast this machine trains."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mloptimizer.app.requirements import check_images, check_machine
from mloptimizer.cli.options import (
    dataset_option,
    examples,
    refuse_options,
    set_option,
    stated_settings,
    workspace_option,
    workspace_settings,
)
from mloptimizer.cli.terminal import log_to, open_console, say, show_table
from mloptimizer.config.settings import Settings
from mloptimizer.config.settings_file import read_settings_file
from mloptimizer.core.errors import UsageError, unknown_name
from mloptimizer.core.files import write_bytes, write_text
from mloptimizer.core.interrupts import stop_signals
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.data.catalog import CATALOG
from mloptimizer.data.library import prepare_dataset
from mloptimizer.hardware.read.machine_facts import host_name
from mloptimizer.reports.model.comparison import compare
from mloptimizer.reports.model.trainings import read_trainings
from mloptimizer.reports.terminal.bench_table import (
    bench_chart,
    bench_csv,
    bench_table,
    describe_measurement,
    tuning_table,
)
from mloptimizer.reports.terminal.comparison_table import comparison_table
from mloptimizer.spaces.space_files import read_spaces
from mloptimizer.store.machine_file import check_free, write_machine_file
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.bench import BenchResult, bench_settings, run_bench
from mloptimizer.tuning.machine_bench import list_cases, run_machine_bench
from mloptimizer.tuning.measured_model import choose_model
from mloptimizer.tuning.measurement import Machine, Workload, this_machine
from mloptimizer.tuning.tune import run_tuning

_SPLIT_SEED = 0
_ACCURACY = click.FloatRange(0, 1, min_open=True)
_OUTPUT_HELP = "Folder for bench.csv and bench.png; with --machine: file.  [default: bench_DATASET in the workspace]"
_NOT_WITH_MACHINE = ("data_set", "dataset", "space", "target_accuracy", "epochs", "steps", "assignments")


@click.command(epilog=examples("mloptimizer tune digits", "mloptimizer tune cifar10 --space resnet"))
@click.argument("dataset")
@click.option("--space", metavar="NAME", help="Measure a model of this search space.  [default: a fixed resnet]")
@click.option("--again", is_flag=True, help="Measure even if this machine was tuned before for such data.")
@set_option
@workspace_option
def tune(workspace: Workspace, dataset: str, space: str | None, again: bool, **options: Any) -> None:
    """Find the fastest way to train on this machine.

    It measures precision, compilation, batch size and input pipeline in turn; searches use the fastest.
    """
    settings = workspace_settings(workspace, options)
    machine = this_machine()
    info = _prepare(dataset, settings, machine, space, workspace)
    with _measuring("nothing is kept") as console:
        plan, measured = run_tuning(workspace, info, settings, machine, space=space, again=again)
    if not measured:
        say(console, f"Known since {plan.tuned_utc}, from {plan.model}; --again measures again.")
    show_table(tuning_table(plan))
    say(console, f"Kept in {workspace.tuning_file}: searches with the same settings use it for those that are auto.")


@click.command(epilog=examples("mloptimizer bench digits", "mloptimizer bench --machine"))
@dataset_option
@click.option("--space", metavar="NAME", help="Measure a model of this search space.  [default: a fixed resnet]")
@click.option("--target-accuracy", type=_ACCURACY, default=0.9, show_default=True, help="Validation accuracy to reach.")
@click.option("--epochs", type=click.IntRange(min=2), default=10, show_default=True, help="Epochs per training.")
@click.option("--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Steps per epoch, at most.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help=_OUTPUT_HELP)
@click.option("--machine", "of_machine", is_flag=True, help="Measure one fixed small model, to compare machines.")
@set_option
@workspace_option
@click.pass_context
def bench(
    context: click.Context,
    workspace: Workspace,
    dataset: str | None,
    space: str | None,
    of_machine: bool,
    **options: Any,
) -> None:
    """Measure what each optimization gains on this machine.

    It trains on digits unless you name another data set.
    """
    machine, target = this_machine(), options["output"]
    if of_machine:
        refuse_options(context, _NOT_WITH_MACHINE, "has no effect with --machine, which measures the same everywhere")
        _run_machine_bench(machine, _free_file(workspace, target))
        return
    stated, dataset = stated_settings(workspace, options), dataset or "digits"
    settings = bench_settings(stated, read_settings_file(workspace.settings_file), machine.gpus)
    info = _prepare(dataset, settings, machine, space, workspace)
    model = choose_model(space, info, workspace.search_spaces)
    workload = Workload(*model, info, options["epochs"], options["steps"], options["target_accuracy"])
    _run_bench(workload, settings, machine, _free_folder(workspace, dataset, target))


def _run_machine_bench(machine: Machine, path: Path) -> None:
    """Measure, print each result as it comes, and write them all at the end."""
    check_free(path)  # before the measurement, which takes minutes
    with _measuring("nothing is kept") as console:
        say(console, f"Measuring {machine.describe()}: {'; '.join(list_cases(machine))}.")
        write_machine_file(path, run_machine_bench(machine, lambda line: say(console, line)))
    show_table(comparison_table(compare(*read_trainings([str(path)], Workspace(Path())), {})))
    say(console, f"wrote {path}   Compare it with: mloptimizer hardware --compare {path} OTHER.json")


def _run_bench(workload: Workload, settings: Settings, machine: Machine, folder: Path) -> None:
    """Measure, print each result as it comes, and write the CSV after each, so that none is lost."""

    def report(done: BenchResult) -> None:
        write_text(folder / "bench.csv", bench_csv(done))
        say(console, describe_measurement(done.rows[-1], done.ratio(done.rows[-1])))

    write_text(folder / "bench.csv", bench_csv(BenchResult(())))  # shows, before hours of work, that it can be written
    model = f"a {workload.space.name}, {workload.epochs} epochs of at most {workload.steps_per_epoch} steps"
    with _measuring(f"the results so far are in {folder / 'bench.csv'}") as console:
        say(console, f"Every line is a training of {model}, on {machine.describe()}.")
        done = run_bench(workload, settings, machine, report)
    write_bytes(folder / "bench.png", bench_chart(done, f"{workload.dataset.name} on {machine.describe()}"))
    show_table(bench_table(done, workload.target_accuracy))
    say(console, f"wrote {folder / 'bench.csv'} and bench.png")


@contextlib.contextmanager
def _measuring(when_stopped: str) -> Iterator[Console]:
    """Give the console to measure on; if the person stops the measurement, say what is kept and exit with code 130."""
    console = open_console()
    log_to(console)
    try:
        with stop_signals():
            yield console
    except KeyboardInterrupt:
        say(console, f"\nStopped; {when_stopped}.")
        sys.exit(130)


def _prepare(
    dataset: str, settings: Settings, machine: Machine, space: str | None, workspace: Workspace
) -> DatasetInfo:
    """Return the data set; check names and settings first, so that a wrong one does not wait for a download."""
    if dataset not in CATALOG:
        raise unknown_name("mloptimizer", "data set", dataset, CATALOG)
    if space is not None:
        read_spaces([space], workspace.search_spaces)
    check_machine(settings, machine.gpus)
    slot = machine.find_slot(settings)
    info = prepare_dataset(dataset, settings.validation_fraction, _SPLIT_SEED, settings.train_limit)
    check_images(settings, slot, info.train_size)
    return info


def _free_folder(workspace: Workspace, dataset: str, target: Path | None) -> Path:
    """Return the folder to write to, which never holds an earlier bench."""

    def is_taken(folder: Path) -> bool:
        return any((folder / name).exists() for name in ("bench.csv", "bench.png"))

    if target is None:
        return next(folder for folder in _numbered(workspace.bench, dataset) if not is_taken(folder))
    if target.is_file():
        raise UsageError(f"-o {target}: is a file. Possible: a folder.")
    if is_taken(target):
        raise UsageError(f"-o {target}: already holds the results of a bench. Choose another folder.")
    return target


def _free_file(workspace: Workspace, target: Path | None) -> Path:
    """Return the file to write to: the named one, or else one that does not exist yet."""
    if target is None:
        return next(path for path in _numbered(workspace.machine_bench, host_name()) if not path.exists())
    return target / workspace.machine_bench(host_name()).name if target.is_dir() else target


def _numbered(place: Callable[[str], Path], name: str) -> Iterator[Path]:
    """Yield the places of NAME, NAME-2, NAME-3 and so on."""
    yield place(name)
    yield from (place(f"{name}-{number}") for number in itertools.count(2))
