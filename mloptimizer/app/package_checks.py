"""Checks Python and the installed packages against what mloptimizer's own metadata, made from setup.cfg, requires."""

import importlib.metadata
from collections.abc import Callable
from email.message import Message
from typing import cast

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mloptimizer.core.check import Check
from mloptimizer.core.versions import installed_version
from mloptimizer.core.words import counted

_NAMED = ("tensorflow", "keras", "optuna")


def read_metadata() -> Message:
    """Return mloptimizer's metadata; empty if it runs without being installed."""
    try:
        return cast(Message, importlib.metadata.metadata("mloptimizer"))
    except importlib.metadata.PackageNotFoundError:
        return Message()


def check_python(version: str, about: Message) -> Check:
    """Return whether mloptimizer can run on this Python."""
    possible = about.get("Requires-Python") or ""
    fits = SpecifierSet(possible).contains(version, prereleases=True)
    return Check("Python", fits, version, "" if fits else f"install a Python {possible}")


def check_packages(about: Message, find_version: Callable[[str], str | None] = installed_version) -> Check:
    """Return whether the required packages are installed, and they and those of extras in versions that work."""
    extras = [extra for extra in about.get_all("Provides-Extra") or () if extra != "test"]
    fit: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for each in map(Requirement, about.get_all("Requires-Dist") or ()):
        needed = each.marker is None or each.marker.evaluate({"extra": ""})
        usable = needed or any(each.marker and each.marker.evaluate({"extra": extra}) for extra in extras)
        version = find_version(each.name) if usable else None
        if version is None:
            wrong |= {each.name: f"{each.name} is missing"} if needed else {}
        elif each.specifier.contains(version, prereleases=True):
            fit[each.name] = version
        else:
            wrong[each.name] = f"{each.name} {version} is not {each.specifier}"
    named = [f"{name} {fit[name]}" for name in _NAMED if name in fit]
    found = f"{', '.join(named)}, {counted(len(fit) - len(named), 'other')}"
    if wrong:
        return Check("packages", False, "; ".join([found, *wrong.values()]), "pip install --upgrade mloptimizer")
    return Check("packages", True, found) if fit else Check("packages", None, "mloptimizer is not installed")
