"""Reads and writes the settings as text: `system_parameters.py`, ``--set NAME=VALUE`` and the table in the docs."""

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

from mloptimizer.config.plain_python import read_assignments
from mloptimizer.config.settings import Settings
from mloptimizer.config.values import describe_choices, make_settings, settings_by_group, unknown_setting
from mloptimizer.core.errors import UsageError
from mloptimizer.core.system_errors import file_error


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Return the names and values of ``NAME=VALUE`` words.

    Raises:
        UsageError: a word has no ``=``.
    """
    pairs = {}
    for word in assignments:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {word}: expected NAME=VALUE, for example --set exploration_epochs=4.")
        pairs[name.strip()] = value.strip()
    return pairs


def read_settings_file(path: Path) -> Settings:
    """Return the settings in the workspace's `system_parameters.py`, which is read, not run; without it, the defaults.

    Raises:
        UsageError: the file holds anything but assignments, an unknown name or an impossible value.
    """
    if not path.is_file():
        return Settings()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise file_error(path, error) from error
    found = read_assignments(source, str(path))
    for name, (_, line) in found.items():
        if name not in Settings.model_fields:
            raise unknown_setting(f"{path}, line {line}", name)
    return make_settings({name: value for name, (value, _) in found.items()}, str(path))


def render_settings_file(settings: Settings | None = None) -> str:
    """Return the text of `system_parameters.py`: every setting with its meaning, its possible values and its value."""
    lines = [
        '"""The settings of this mloptimizer workspace; `--set NAME=VALUE` overrides one of them for one command.',
        "",
        "This file is read, not run: it holds values and arithmetic on them. Remove a line to use the default.",
        "Written by `mloptimizer init`.",
        '"""',
    ]
    for group, names in settings_by_group().items():
        lines += ["", f"# --- {group}"]
        for name in names:
            lines.append("")
            for text in (Settings.declared(name)["description"], f"Possible: {describe_choices(name)}"):
                lines += textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{name} = {literal(getattr(settings or Settings(), name))}")
    return "\n".join(lines) + "\n"


def literal(value: object) -> str:
    """Return the value as Python writes it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
