"""Reads from the files of a study how it goes on: its data set, settings, seed and search spaces.

What would make new values incomparable with those that the study has is refused; what changes from now on, what does
not count, and what this version does not know any more, is told.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import make_settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import FailureKind
from mloptimizer.core.secrets import hide_secrets
from mloptimizer.core.words import counted
from mloptimizer.search.budgets import RUN_SETTINGS
from mloptimizer.spaces.space_files import SearchSpace, find_spaces, load_space, read_space, read_spaces
from mloptimizer.store.trial_records import MetricsStore, digest
from mloptimizer.store.workspace import Workspace

_logger = logging.getLogger(__name__)

_NEEDED_FACTS = {"dataset": dict, "settings": dict, "seed": int, "spaces": list, "storage": str}
_UNTOLD, _FIXED = Settings.names(announced=False), Settings.names("identity")


@dataclass(frozen=True)
class Continuation:
    """What a study that is continued brings along."""

    dataset: str
    settings: Settings
    seed: int
    spaces: list[SearchSpace]
    fingerprint: str  # of the data that it has been searching; empty where it is not recorded
    tuned: Mapping[str, object] | None  # by setting, what tuning chose for it; None: that is to be found (again)
    notes: tuple[str, ...]  # what changes from now on, and what the person changed that does not count


def continue_study(
    workspace: Workspace, name: str, dataset: str | None, assignments: Mapping[str, object], stated: Settings
) -> Continuation:
    """Return how the study goes on.

    Args:
        dataset: that the person named, if any.
        assignments: the settings stated for this search; they win over those of the study.
        stated: the workspace's settings, of which the storage counts.

    Raises:
        UsageError: the study's files are damaged, or what is asked for does not fit the study.
    """
    store = MetricsStore(workspace, name)
    facts = store.read_study()
    if not _is_record(facts):
        place = workspace.study_file(name)
        raise UsageError(f"{place}: is not the record of a study. Restore it, or start another study.")
    searched = str(facts["dataset"].get("name"))
    if dataset not in (None, searched):
        raise UsageError(f"--dataset {dataset}: study '{name}' searches {searched}. Choose another --study name.")
    own = {setting: getattr(stated, setting) for setting in ("storage", *RUN_SETTINGS)}
    base = make_settings({**_known_settings(name, facts["settings"]), **own}, f"study '{name}'")
    settings = _restate(assignments, base)
    _check_unchanged(name, assignments, settings, {**base.model_dump(), "seed": facts["seed"]})
    if hide_secrets(settings.storage) != facts["storage"]:
        home = facts["storage"] or "the workspace's journal"
        raise UsageError(f"--storage: study '{name}' lives in {home}. Name that storage to continue it.")
    tuned = _kept_tuning(name, facts)
    own_file, has = workspace.settings_file.name, base.model_copy(update={"seed": facts["seed"]})
    notes = [*_explain_changes(base, settings, tuned or {}), *_explain_what_stays(own_file, has, stated, assignments)]
    spaces = []
    for space in settings.spaces or facts["spaces"]:
        known, made_in_vain = _known_space(workspace, store, name, space, notes)
        spaces.append(known)
        settings = settings.model_copy(update={"trials": settings.trials + made_in_vain})
    if settings.autotune != base.autotune:
        tuned = None
    fingerprint = str(facts["dataset"].get("fingerprint", ""))
    return Continuation(searched, settings, facts["seed"], spaces, fingerprint, tuned, tuple(notes))


def _is_record(facts: Mapping[str, Any]) -> bool:
    kinds = all(isinstance(facts.get(fact), kind) for fact, kind in _NEEDED_FACTS.items())
    return kinds and all(isinstance(name, str) and name.isidentifier() for name in facts["spaces"])


def _restate(assignments: Mapping[str, object], base: Settings) -> Settings:
    """Return the study's settings with the assignments; the rows of a profile count only where it is another one.

    A study's record does not tell which settings were stated, so that its own profile would overwrite some of them.
    """
    if assignments.get("profile", base.profile) != base.profile:
        return make_settings(assignments, "settings", base)
    return make_settings({**base.model_dump(), **assignments}, "settings")


def _kept_tuning(study: str, facts: Mapping[str, Any]) -> Mapping[str, object] | None:
    """Return what tuning chose when the study began; None where its record does not tell."""
    tuned = facts.get("tuned")
    if not isinstance(tuned, dict):
        return None
    known = _known_settings(study, tuned)
    make_settings(known, f"study '{study}'")  # refuses damaged values
    return known


def _known_settings(study: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored settings that this version has; those that it has in addition take their defaults."""
    unknown = [name for name in stored if name not in Settings.model_fields]
    if unknown:
        _logger.warning(
            "study '%s': %s: this version has no such setting any more; it is left out.", study, ", ".join(unknown)
        )
    return {name: value for name, value in stored.items() if name not in unknown}


def _check_unchanged(
    study: str, assignments: Mapping[str, object], settings: Settings, before: Mapping[str, object]
) -> None:
    for name in _FIXED:
        if name in assignments and getattr(settings, name) != before[name]:
            raise UsageError(
                f"{name} = {assignments[name]}: study '{study}' has {before[name]}, and cannot change it without "
                "making its values incomparable. Leave it out, or start another study."
            )


def _explain_changes(before: Settings, after: Settings, tuned: Mapping[str, object]) -> list[str]:
    """Say which settings the person changes for the trials to come."""
    notes = []
    for name in Settings.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if name in _UNTOLD or old == new:
            continue
        choice = f" (tuned to {_words(tuned[name])})" if name in tuned else ""
        notes.append(f"{name} = {_words(new)} from now on; so far it was {_words(old)}{choice}.")
    return notes


def _explain_what_stays(place: str, has: Settings, stated: Settings, assignments: Mapping[str, object]) -> list[str]:
    """Say which settings of the workspace's file do not count, as the study `has` others."""
    row = PROFILES.get(stated.profile, {})
    of_the_profile = {name for name in row if getattr(stated, name) == row[name]}
    notes = []
    for name, field in Settings.model_fields.items():
        old, new = getattr(has, name), getattr(stated, name)
        told = name == "profile" or name not in (*_UNTOLD, *of_the_profile)
        if name in assignments or not told or new in (field.default, old):
            continue
        change = f"; --set {name}={_words(new)} changes it" if name not in _FIXED else ", and cannot change it"
        notes.append(f"{place}: {name} = {_words(new)} does not count here: the study has {_words(old)}{change}.")
    return notes


def _words(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _known_space(
    workspace: Workspace, store: MetricsStore, study: str, name: str, notes: list[str]
) -> tuple[SearchSpace, int]:
    """Return the space as the study has used it, or one of the workspace that is new to the study.

    Of a space whose every trial failed for a fault of the space, the workspace's present text counts: it was fixed.
    Then the trials of the text before count as none; their number is returned too.
    """
    snapshot = workspace.space_snapshot(study, name)
    if not snapshot.is_file():
        return read_spaces([name], workspace.search_spaces)[0], 0
    kept, path = store.read_space(name), find_spaces(workspace.search_spaces).get(name)
    if path is None or _has_text(path, kept):
        return load_space(name, kept, str(snapshot)), 0
    in_vain = _count_in_vain(store, name, kept)
    if not in_vain:
        notes.append(
            f"search space '{name}': {path} is not what the study began with. The study keeps its own text, so that "
            "its values stay comparable. Start a new study to search the other."
        )
        return load_space(name, kept, str(snapshot)), 0
    notes.append(
        f"search space '{name}': all its trials failed for its fault. From now on the text in {path} counts, and "
        f"{counted(in_vain, 'trial')} more will be explored in place of those."
    )
    return read_space(name, path), in_vain


def _has_text(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace") == text
    except OSError:  # it is not needed
        return True


def _count_in_vain(store: MetricsStore, space: str, text: str) -> int:
    """Return how many trials the text was proposed for, where none that is of the space has failed otherwise."""
    records = [record for record in store.trials() if record.plan.get("space") == space]
    ended = [record for record in records if record.result]  # others were cut off as the search ended
    kinds = {(record.result.get("failure") or {}).get("kind") for record in ended}
    if kinds != {FailureKind.SPACE_ERROR} or any(record.epochs for record in records):
        return 0
    return sum(record.plan.get("space_text", digest(text)) == digest(text) for record in ended)
