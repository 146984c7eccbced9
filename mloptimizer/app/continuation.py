"""Reads from a study's files how it continues: its data set, settings, seed and search spaces.

Refuses what would make new values incomparable with those of the study; reports what changes from now on, what is
ignored, and what this version no longer knows.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mloptimizer.app.search_request import PreparedSearch, SearchRequest
from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import FailureKind
from mloptimizer.core.secrets import hide_secrets
from mloptimizer.core.words import counted
from mloptimizer.search.budgets import RUN_SETTINGS
from mloptimizer.spaces.space_files import SearchSpace, find_spaces, load_space, read_space, read_spaces
from mloptimizer.store.metrics_store import MetricsStore, digest
from mloptimizer.store.workspace import Workspace

_logger = logging.getLogger(__name__)

_NEEDED_FACTS = {"dataset": dict, "settings": dict, "seed": int, "spaces": list, "storage": str}
_UNTOLD, _FIXED = Settings.names(announced=False), Settings.names("identity")


def continue_study(request: SearchRequest, name: str, stated: Settings) -> PreparedSearch:
    """Return how the study continues; the request's assignments override the study's settings.

    Args:
        stated: the workspace's settings, of which only storage and budgets count.

    Raises:
        UsageError: the study's files are damaged, or the request does not fit the study.
    """
    workspace, assignments = request.workspace, dict(request.assignments)
    store = MetricsStore(workspace, name)
    facts = store.read_study()
    if not _is_record(facts):
        place = workspace.study_file(name)
        raise UsageError(f"{place}: is not the record of a study. Restore it, or start another study.")
    if request.more_trials:
        assignments["trials"] = store.planned_trials() + request.more_trials
    dataset, seed = str(facts["dataset"].get("name")), facts["seed"]
    if request.dataset not in (None, dataset):
        raise UsageError(f"--dataset {request.dataset}: study '{name}' uses {dataset}. Choose another --study name.")
    own = {setting: getattr(stated, setting) for setting in ("storage", *RUN_SETTINGS)}
    base = make_settings({**_known_settings(name, facts["settings"]), **own}, f"study '{name}'")
    settings = _restate(assignments, base)
    _check_unchanged(name, assignments, settings, {**base.model_dump(), "seed": seed})
    if hide_secrets(settings.storage) != facts["storage"]:
        home = facts["storage"] or "the workspace's journal"
        raise UsageError(f"--storage: study '{name}' is stored in {home}. Name that storage to resume it.")
    tuned = _kept_tuning(name, facts)
    notes = _describe_changes(base, settings, tuned or {})
    has = base.model_copy(update={"seed": seed})
    notes += _describe_ignored(workspace.settings_file.name, has, stated, assignments)
    spaces = []
    for space in settings.spaces or facts["spaces"]:
        known, replaced = _known_space(workspace, store, name, space, notes)
        spaces.append(known)
        settings = settings.model_copy(update={"trials": settings.trials + replaced})
    return PreparedSearch(
        name,
        dataset,
        settings,
        seed,
        spaces,
        continued=True,
        fingerprint=str(facts["dataset"].get("fingerprint", "")),
        tuned=tuned if settings.autotune == base.autotune else None,
        notes=tuple(notes),
    )


def _is_record(facts: Mapping[str, Any]) -> bool:
    kinds = all(isinstance(facts.get(fact), kind) for fact, kind in _NEEDED_FACTS.items())
    return kinds and all(isinstance(name, str) and name.isidentifier() for name in facts["spaces"])


def _restate(assignments: Mapping[str, object], base: Settings) -> Settings:
    """Return the study's settings with the assignments; the values of a profile count only if it is another one.

    A study's record does not say which settings were stated, so its own profile would overwrite some of them.
    """
    if assignments.get("profile", base.profile) != base.profile:
        return make_settings(assignments, "settings", base)
    return make_settings({**base.model_dump(), **assignments}, "settings")


def _kept_tuning(study: str, facts: Mapping[str, Any]) -> Mapping[str, object] | None:
    """Return what tuning chose when the study began; None if its record does not say."""
    tuned = facts.get("tuned")
    if not isinstance(tuned, dict):
        return None
    known = _known_settings(study, tuned)
    make_settings(known, f"study '{study}'")  # refuses damaged values
    return known


def _known_settings(study: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored settings that this version knows; all others take their defaults."""
    if unknown := [name for name in stored if name not in Settings.model_fields]:
        names = ", ".join(unknown)
        _logger.warning("study '%s': %s: this version has no such setting any more; it is ignored.", study, names)
    return {name: value for name, value in stored.items() if name not in unknown}


def _check_unchanged(
    study: str, assignments: Mapping[str, object], settings: Settings, before: Mapping[str, object]
) -> None:
    for name in _FIXED:
        if name in assignments and getattr(settings, name) != before[name]:
            raise UsageError(
                f"{name} = {assignments[name]}: study '{study}' has {before[name]}, and a change would make its values "
                "incomparable. Leave it out, or start another study."
            )


def _describe_changes(before: Settings, after: Settings, tuned: Mapping[str, object]) -> list[str]:
    """Return which settings the person changes for the trials to come."""
    notes = []
    for name in Settings.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if name not in _UNTOLD and old != new:
            choice = f" (tuned to {_words(tuned[name])})" if name in tuned else ""
            notes.append(f"{name} = {_words(new)} from now on; so far it was {_words(old)}{choice}.")
    return notes


def _describe_ignored(place: str, has: Settings, stated: Settings, assignments: Mapping[str, object]) -> list[str]:
    """Return which settings of the workspace's file are ignored because the study `has` others."""
    row = PROFILES.get(stated.profile, {})
    from_profile = {name for name in row if getattr(stated, name) == row[name]}
    notes = []
    for name, field in Settings.model_fields.items():
        old, new = getattr(has, name), getattr(stated, name)
        told = name == "profile" or name not in (*_UNTOLD, *from_profile)
        if told and name not in assignments and new not in (field.default, old):
            change = f"; --set {name}={_words(new)} changes it" if name not in _FIXED else ", which cannot change"
            notes.append(f"{place}: {name} = {_words(new)} is ignored: the study has {_words(old)}{change}.")
    return notes


def _words(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _known_space(
    workspace: Workspace, store: MetricsStore, study: str, name: str, notes: list[str]
) -> tuple[SearchSpace, int]:
    """Return the space as the study has used it, or one of the workspace that is new to the study.

    If every trial of a space failed because of the space, the workspace's present text is used: it was fixed. Trials of
    the earlier text do not count then; their number is returned too.
    """
    snapshot = workspace.space_snapshot(study, name)
    if not snapshot.is_file():
        return read_spaces([name], workspace.search_spaces)[0], 0
    kept, path = store.read_space(name), find_spaces(workspace.search_spaces).get(name)
    if path is None or _has_text(path, kept):
        return load_space(name, kept, str(snapshot)), 0
    if replaced := _count_broken(store, name, kept):
        notes.append(
            f"search space '{name}': it made all its trials fail. The text in {path} is used from now on, and "
            f"{counted(replaced, 'trial')} more will be explored to replace those."
        )
        return read_space(name, path), replaced
    notes.append(
        f"search space '{name}': {path} has changed since the study began. The study keeps its own text, so that its "
        "values stay comparable. Start a new study to search the changed one."
    )
    return load_space(name, kept, str(snapshot)), 0


def _has_text(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace") == text
    except OSError:  # it is not needed
        return True


def _count_broken(store: MetricsStore, space: str, text: str) -> int:
    """Return how many trials this text proposed, if all trials of the space failed because of it; otherwise 0."""
    records = [record for record in store.trials() if record.plan.get("space") == space]
    ended = [record for record in records if record.result]  # others were cut off as the search ended
    kinds = {(record.result.get("failure") or {}).get("kind") for record in ended}
    if kinds != {FailureKind.SPACE_ERROR} or any(record.epochs for record in records):
        return 0
    return sum(record.plan.get("space_text", digest(text)) == digest(text) for record in ended)
