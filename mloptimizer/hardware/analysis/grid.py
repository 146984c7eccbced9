"""Reports how many grams of CO2 a kilowatt-hour of the grid stands for."""

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mloptimizer.core.errors import UsageError

WORLD_G_PER_KWH = 475.0
"""The world's mean according to the IEA (Global Energy & CO2 Status Report 2019), which codecarbon also uses for an
unknown country."""


def describe_grid(g_per_kwh: object) -> str:
    """Return the factor in the words that stand beside grams, with its origin."""
    if not isinstance(g_per_kwh, (int, float)):
        return "an unknown factor"
    origin = "the world's mean, unless grid_co2 says otherwise" if g_per_kwh == WORLD_G_PER_KWH else "setting grid_co2"
    return f"{g_per_kwh:g} g/kWh, {origin}"


_TABLE = Path("data") / "private_infra" / "global_energy_mix.json"  # of the package codecarbon (MIT), 3.x


@dataclass(frozen=True)
class Grid:
    """What one kWh stands for, and the source of that number."""

    g_per_kwh: float
    source: str


def find_grid(grid_co2: float | str) -> Grid:
    """Return the factor that the setting names: a number, or a country's ISO code in codecarbon's table.

    Only the table is read: codecarbon is not imported, measures nothing and contacts no server.
    Raises UsageError: the table has no such country, or there is no table.
    """
    if not isinstance(grid_co2, str):
        is_default = grid_co2 == WORLD_G_PER_KWH
        return Grid(float(grid_co2), "the world's mean, IEA 2019" if is_default else "setting grid_co2")
    code = grid_co2.upper()
    row = _read_table(code).get(code)
    factor = row.get("carbon_intensity") if isinstance(row, Mapping) else None
    if not isinstance(row, Mapping) or not isinstance(factor, (int, float)):
        raise UsageError(
            f"grid_co2 = {code}: codecarbon's table has no value for such a country. "
            "Possible: the three letters of ISO 3166, for instance DEU, or a number in g/kWh."
        )
    name, year = row.get("country_name", code), row.get("year", "the last year")
    return Grid(float(factor), f"{name} in {year}, codecarbon's table")


@functools.cache
def _read_table(code: str) -> Mapping[str, Any]:
    found = importlib.util.find_spec("codecarbon")  # imports nothing
    folders = list(found.submodule_search_locations or ()) if found else []
    try:
        table = json.loads((Path(folders[0]) / _TABLE).read_text(encoding="utf-8"))
    except (IndexError, OSError, ValueError) as error:
        trouble = "has no table in the expected place" if folders else "is not installed"
        raise UsageError(
            f"grid_co2 = {code}: codecarbon, which has the table of countries, {trouble}. "
            "Possible: pip install 'mloptimizer[carbon]', or a number in g/kWh."
        ) from error
    return table if isinstance(table, Mapping) else {}
