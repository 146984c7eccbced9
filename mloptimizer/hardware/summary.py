"""Reads hardware logs back, and says in a few figures what they hold."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mloptimizer.errors import UsageError
from mloptimizer.files import file_error
from mloptimizer.hardware.columns import TIME_COLUMNS, TRAINING_COLUMNS, text_columns

if TYPE_CHECKING:
    import pandas as pd


def read_log(path: Path) -> "pd.DataFrame":
    """Return the whole rows of a log, in the columns and units of the README beside it.

    Raises:
        UsageError: the file is missing, unreadable or no hardware log.
    """
    import pandas as pd

    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what stands after the last line's end is torn
    except OSError as error:
        raise file_error(path, error) from error
    if not lines or not lines[0].startswith(b"time_utc,seconds,"):
        raise UsageError(f"{path}: is no hardware log. Possible: a file that a search wrote.")
    whole = [line for line in lines if line.count(b",") == lines[0].count(b",")]
    words = text_columns((*TIME_COLUMNS, *TRAINING_COLUMNS))
    kinds = {name: "str" if name in words else "float64" for name in lines[0].decode().split(",")[1:]}
    return pd.read_csv(io.BytesIO(b"\n".join(whole)), parse_dates=["time_utc"], dtype=kinds)


@dataclass(frozen=True)
class LogSummary:
    """What a log says about a trial."""

    rows: int
    duration_s: float
    gpu_energy_wh: float | None  # of all its GPUs; None without a GPU that tells its energy or power
    figures: "pd.DataFrame"  # by column of the log: mean and peak


def summarise_log(path: Path) -> LogSummary:
    """Return means, peaks, duration and energy of a log; a torn last line is left out.

    The energy of a GPU is what its counter gained; without a counter it is the power integrated by the trapezoid rule.

    Raises:
        UsageError: the file is missing, unreadable or no hardware log.
    """
    table = read_log(path)
    begins_anew = table["seconds"].diff() < 0
    parts = [part for _, part in table.groupby(begins_anew.cumsum())]
    gpus = [name.removesuffix("_energy_j") for name in table.columns if re.fullmatch(r"gpu\d+_energy_j", name)]
    joules = [energy for part in parts for gpu in gpus if (energy := _energy_j(part, gpu)) is not None]
    figures = table.drop(
        columns=[*text_columns((*TIME_COLUMNS, *TRAINING_COLUMNS)), "seconds", *(f"{gpu}_energy_j" for gpu in gpus)],
        errors="ignore",
    )
    return LogSummary(
        rows=len(table),
        duration_s=float(sum(part["seconds"].max() - part["seconds"].min() for part in parts)),
        gpu_energy_wh=sum(joules) / 3600 if joules else None,
        figures=figures.agg(["mean", "max"]).T.rename(columns={"max": "peak"}),
    )


def _energy_j(part: "pd.DataFrame", gpu: str) -> float | None:
    import numpy as np

    counter = part[f"{gpu}_energy_j"].dropna()
    if len(counter) > 1:
        return float(counter.iloc[-1] - counter.iloc[0])
    power = part[["seconds", f"{gpu}_power_w"]].dropna()
    return float(np.trapezoid(power[f"{gpu}_power_w"], power["seconds"])) if len(power) > 1 else None
