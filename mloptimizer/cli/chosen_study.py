"""Chooses the study for a command that names none, and says which; writes commands that continue a study."""

import shlex
from pathlib import Path

import click

from mloptimizer.core.errors import UsageError
from mloptimizer.reports.model.standings import find_study, is_search_running, list_recorded_studies
from mloptimizer.reports.model.studies import last_change
from mloptimizer.store.workspace import Workspace


def choose_study(workspace: Workspace, name: str | None) -> str:
    """Return the named study, or else the newest. Raises UsageError if there is none."""
    if name is not None:
        return find_study(workspace, name)
    names = list_recorded_studies(workspace)
    if not names:
        raise UsageError("STUDY: there is no study here yet. Begin with: mloptimizer search digits --trials 12")
    newest = max(names, key=lambda each: last_change(workspace, each))
    if len(names) > 1:
        click.echo(f"Study '{newest}', the newest of {len(names)}.", err=True)
    return newest


def choose_trial(workspace: Workspace, study: str | None, trial: int | None) -> tuple[str, int | None]:
    """Return the study, and the trial if one is named; a number alone is a trial of the newest study."""
    if study is not None and study.isdecimal() and trial is None and study not in list_recorded_studies(workspace):
        return choose_study(workspace, None), int(study)
    return choose_study(workspace, study), trial


def choose_running(workspace: Workspace, name: str | None) -> str:
    """Return the named study, or else the one whose search is running. Raises UsageError if it is not exactly one."""
    if name is not None:
        return find_study(workspace, name)
    running = [each for each in list_recorded_studies(workspace) if is_search_running(workspace, each)]
    if len(running) != 1:
        found = f"several searches run here: {', '.join(running)}" if running else "no search runs here"
        raise UsageError(f"STUDY: {found}. Name the study; `mloptimizer studies` lists them.")
    click.echo(f"Study '{running[0]}', whose search is running.", err=True)
    return running[0]


def command_line(workspace: Workspace, *words: str) -> str:
    """Return the command as a person types it."""
    place = ["--workspace", str(workspace.root)] if workspace.root != Path() else []
    return shlex.join(["mloptimizer", *words, *place])
