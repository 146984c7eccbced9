"""The versions of installed packages."""

import importlib.metadata
from collections.abc import Iterable


def installed_version(package: str) -> str | None:
    """Return the version here; None: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions here, by package; what is not installed is left out."""
    return {name: version for name in packages if (version := installed_version(name))}
