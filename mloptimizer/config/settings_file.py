"""Reads and writes the settings as text: `system_parameters.py`, ``--set NAME=VALUE`` and the table in the docs."""

import json
import runpy
import textwrap
from collections.abc import Iterable
from pathlib import Path

from mloptimizer.config.settings import Settings
from mloptimizer.config.values import describe_choices, make_settings
from mloptimizer.core.errors import UsageError


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Return the names and values of ``NAME=VALUE`` words.

    Raises:
        UsageError: a word has no ``=``.
    """
    pairs = {}
    for word in assignments:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {word}: expected NAME=VALUE, for instance --set exploration_epochs=4.")
        pairs[name.strip()] = value.strip()
    return pairs


def read_settings_file(path: Path) -> Settings:
    """Return the settings that the workspace's `system_parameters.py` states; a missing file means the defaults.

    The file is the person's own Python; names that start with ``_``, modules and functions are not settings.

    Raises:
        UsageError: the file does not run, or states an unknown name or an impossible value.
    """
    if not path.is_file():
        return Settings()
    try:
        names = runpy.run_path(str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}. Correct it, or remove the file.") from error
    except (Exception, SystemExit) as error:  # the person's own code may raise anything
        raise UsageError(f"{path}: {type(error).__name__}: {error}. Correct it, or remove the file.") from error
    plain = (str, int, float, bool, tuple, list, type(None))
    values = {name: value for name, value in names.items() if not name.startswith("_") and isinstance(value, plain)}
    return make_settings(values, str(path))


def render_settings_file(settings: Settings | None = None) -> str:
    """Return the text of `system_parameters.py`: every setting with its meaning, its possible values and its value."""
    settings = settings or Settings()
    lines = [
        '"""The settings of this mloptimizer workspace; `--set NAME=VALUE` overrides one of them for one command.',
        "",
        "Remove a line to take the default. Written by `mloptimizer init`.",
        '"""',
    ]
    for name, field in Settings.model_fields.items():
        lines += ["", *_comment(field.description or ""), *_comment(f"Possible: {describe_choices(name)}")]
        lines.append(f"{name} = {_literal(getattr(settings, name))}")
    return "\n".join(lines) + "\n"


def render_settings_table() -> str:
    """Return the settings as the Markdown table of the docs."""
    rows = ["| setting | default | meaning | possible |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{name}` | `{_literal(field.default)}` | {field.description} | {describe_choices(name)} |")
    return "\n".join(rows) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
