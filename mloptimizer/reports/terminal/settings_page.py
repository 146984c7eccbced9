"""Shows the settings: the few that people need, all by group, or everything about one."""

from collections.abc import Collection, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mloptimizer.config.declaring import BELONGS_TO
from mloptimizer.config.profiles import PROFILES
from mloptimizer.config.settings import Settings
from mloptimizer.config.settings_file import literal
from mloptimizer.config.values import describe_choices, settings_by_group, unknown_setting

_FILE = "file"  # system_parameters.py, in a narrow column
_NAME_WIDTH, _VALUE_WIDTH = max(map(len, Settings.model_fields)), 12


def common_settings(settings: Settings, stated: Collection[str]) -> RenderableType:
    """Return a line for each setting that people need or that is not at its default.

    Args:
        stated: names of the settings that the command line sets.
    """
    common = Settings.names(common=True)
    names = [name for name in Settings.names() if name in common or _source(settings, name, stated)]
    count = f"{len(names)} of {len(Settings.model_fields)}"
    more = Text(f"\n{count}. All: `mloptimizer settings --all`. One: `mloptimizer settings NAME`.")
    return Group(_table(settings, stated, names, one_line=True), more)


def all_settings(settings: Settings, stated: Collection[str]) -> RenderableType:
    """Return all settings with their meanings, by group."""
    parts: list[RenderableType] = []
    for group, names in settings_by_group().items():
        parts += [Text(group, style="bold underline"), _table(settings, stated, names, one_line=False), Text("")]
    return Group(*parts)


def setting_page(name: str, settings: Settings, stated: Collection[str]) -> RenderableType:
    """Return everything about one setting.

    Raises:
        UsageError: there is no such setting.
    """
    if name not in Settings.model_fields:
        raise unknown_setting("mloptimizer settings", name)
    facts = Settings.declared(name)
    profiles = (f"{profile}: {literal(row[name])}" for profile, row in PROFILES.items() if name in row)
    source = _source(settings, name, stated) or "default"
    rows = {
        "meaning": facts["description"],
        "value": f"{literal(getattr(settings, name))} ({'system_parameters.py' if source == _FILE else source})",
        "default": literal(facts["default"]),
        "possible": describe_choices(name),
        "group": facts["group"],
        "belongs to": f"{facts['belongs_to']}. {BELONGS_TO[facts['belongs_to']]}",
        "profiles": ", ".join(profiles) or "none sets it",
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for title, text in rows.items():
        table.add_row(Text(title), Text(text, overflow="fold"))
    return Group(Text(name, style="bold"), table)


def _table(settings: Settings, stated: Collection[str], names: Sequence[str], one_line: bool) -> Table:
    """Return the settings; one that is not at its default is bold, and a column shows where its value comes from."""
    sources = {name: _source(settings, name, stated) for name in names}
    cut: Literal["ellipsis", "fold"] = "ellipsis" if one_line else "fold"
    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    table.add_column(width=max(map(len, names)) if one_line else _NAME_WIDTH)
    table.add_column(width=_VALUE_WIDTH, no_wrap=one_line, overflow=cut)
    if any(sources.values()):
        table.add_column(width=max(map(len, sources.values())))
    table.add_column(ratio=1, no_wrap=one_line, overflow=cut)
    for name, source in sources.items():
        meaning = str(Settings.declared(name)["description"])
        value = getattr(settings, name)
        cells = [name, (",".join(value) or "all") if isinstance(value, tuple) else str(value)]
        cells += [source] if any(sources.values()) else []
        cells.append(meaning.partition(";")[0] if one_line else meaning)
        table.add_row(*map(Text, cells), style="bold" if source else "")
    return table


def _source(settings: Settings, name: str, stated: Collection[str]) -> str:
    """Return where the value comes from, empty for the default."""
    value = getattr(settings, name)
    if name in stated:
        return "command line"
    if value == Settings.declared(name)["default"]:
        return ""
    return f"profile {settings.profile}" if PROFILES[settings.profile].get(name) == value else _FILE
