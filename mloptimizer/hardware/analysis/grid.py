"""Says how many grams of CO2 a kilowatt-hour of the grid stands for."""

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import UsageError

WORLD_G_PER_KWH = 475.0
"""The world's mean by the IEA (Global Energy & CO2 Status Report 2019), which codecarbon too takes where it knows no
country."""


def describe_grid(g_per_kwh: object) -> str:
    """Return the factor as it is to stand beside grams: a default is told to be one."""
    if not isinstance(g_per_kwh, (int, float)):
        return "an unknown factor"
    origin = "the world's mean, unless grid_co2 says otherwise" if g_per_kwh == WORLD_G_PER_KWH else "setting grid_co2"
    return f"{g_per_kwh:g} g/kWh, {origin}"


_TABLE = Path("data") / "private_infra" / "global_energy_mix.json"  # of the package codecarbon (MIT), 3.x


@dataclass(frozen=True)
class Grid:
    """What one kWh stands for, and where that is from."""

    g_per_kwh: float
    source: str


def find_grid(grid_co2: float | str) -> Grid:
    """Return the factor that the setting names: a number, or the ISO code of a country in codecarbon's table.

    Only the table is read: codecarbon is not imported, measures nothing and asks no server.

    Raises:
        UsageError: there is no such country in the table, or no table.
    """
    if not isinstance(grid_co2, str):
        is_default = grid_co2 == WORLD_G_PER_KWH
        return Grid(float(grid_co2), "the world's mean, IEA 2019" if is_default else "setting grid_co2")
    table = _read_table(grid_co2)
    code = grid_co2.upper()
    row = table.get(code, {})
    factor = _intensity(row)
    if factor is None:
        raise UsageError(
            f"grid_co2 = {code}: codecarbon's table tells nothing of such a country. "
            "Possible: the three letters of ISO 3166, for instance DEU, or a number in g/kWh."
        )
    return Grid(factor, f"{row.get('country_name', code)} in {row.get('year', 'the last year')}, codecarbon's table")


def _intensity(row: Mapping[str, Any]) -> float | None:
    value = row.get("carbon_intensity") if isinstance(row, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


@functools.cache
def _read_table(code: str) -> Mapping[str, Any]:
    found = importlib.util.find_spec("codecarbon")  # imports nothing
    folders = list(found.submodule_search_locations or ()) if found else []
    try:
        table = json.loads((Path(folders[0]) / _TABLE).read_text(encoding="utf-8"))
    except (IndexError, OSError, ValueError) as error:
        trouble = "has no table where it is looked for" if folders else "is not installed"
        raise UsageError(
            f"grid_co2 = {code}: codecarbon, which knows the countries, {trouble}. "
            "Possible: pip install 'mloptimizer[carbon]', or a number in g/kWh."
        ) from error
    return table if isinstance(table, Mapping) else {}
