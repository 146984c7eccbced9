"""Writes a trial's hardware summary as text, for the reports that show it."""

from collections.abc import Mapping, Sequence

from mloptimizer.core.words import counted
from mloptimizer.hardware.analysis.grid import describe_grid
from mloptimizer.hardware.columns import PARTS, Cell
from mloptimizer.reports.formatting import MISSING, duration, fixed, is_number

Summary = Mapping[str, Cell]


def time_words(summary: Summary) -> str:
    """Return how the time was spent, part by part; parts that took none are left out."""
    spent = {name.replace("_", " "): summary.get(f"{name}_s") for name in (*PARTS, "other")}
    return ", ".join(f"{name} {duration(value)}" for name, value in spent.items() if value) or MISSING


def energy_words(summary: Summary) -> str:
    """Return energy and CO2 with their sources."""
    parts = []
    if is_number(summary.get("gpu_wh")):
        parts.append(f"GPU {amount(summary['gpu_wh'])} Wh by {summary.get('gpu_energy_source')}")
    if is_number(summary.get("cpu_wh")):
        parts.append(f"CPU {amount(summary['cpu_wh'])} Wh, estimated")
    if not parts:
        return "unknown: no GPU with a meter, and the processors' counter (RAPL) cannot be read"
    co2 = f"{amount(summary.get('co2_g'))} g CO2 at {describe_grid(summary.get('grid_g_per_kwh'))}"
    return f"{amount(summary.get('energy_wh'))} Wh ({'; '.join(parts)}); {co2}"


def amount(value: object) -> str:
    """Return a quantity with three significant digits, or as an integer from 1000."""
    return f"{value:.3g}" if is_number(value) and value < 1000 else fixed(value, 0)


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return the summary as names and texts, without those of GPUs where there are none."""
    machine = f"the machine's cores were {fixed(summary.get('cpu_percent'), 0)} % busy"
    ram = fixed(summary.get("ram_peak_mb"), 0, "MB")
    training = (
        f"{fixed(summary.get('images_per_second'), 0)} images/s, {amount(summary.get('images_per_joule'))} images/J, "
        f"waited for images {fixed(summary.get('data_wait_percent'), 1)} % of the time"
    )
    rows = [
        ("time", f"{duration(summary.get('duration_s'))}: {time_words(summary)}"),
        ("idle", _idle_words(summary)),
        ("training", training),
        ("processes", f"{fixed(summary.get('process_cores'), 2)} cores, RAM peak {ram}; {machine}"),
    ]
    if summary.get("gpus"):
        rows += [("GPUs", _gpu_words(summary)), ("throttling", _throttling_words(summary))]
    findings = str(summary["findings"] or "none") if "findings" in summary else MISSING
    return [*rows, ("energy", energy_words(summary)), ("findings", findings)]


def _idle_words(summary: Summary) -> str:
    if not is_number(summary.get("idle_s")):
        return MISSING
    if not summary["idle_s"]:
        return "never for 5 s or more"
    periods, longest = counted(summary.get("idle_periods"), "period"), duration(summary.get("longest_idle_s"))
    return f"{duration(summary['idle_s'])} in {periods}, the longest {longest}"


def _gpu_words(summary: Summary) -> str:
    def three(name: str) -> str:
        values = [summary.get(f"gpu_{name}{kind}_percent") for kind in ("", "_p95", "_peak")]
        return "{} % (95th percentile {}, peak {})".format(*(fixed(value, 0) for value in values))

    shared = summary.get("trials_on_gpu")
    among = f", shared by {shared:.1f} trials" if is_number(shared) and shared > 1 else ""
    return (
        f"{summary.get('gpus')}{among}: busy {three('utilization')}; memory busy {three('memory_utilization')}, "
        f"peak {fixed(summary.get('gpu_memory_peak_mb'), 0, 'MB')}; {fixed(summary.get('gpu_power_w'), 0, 'W')}, "
        f"peak {fixed(summary.get('gpu_power_peak_w'), 0, 'W')}"
    )


def _throttling_words(summary: Summary) -> str:
    share = summary.get("throttled_percent")
    if not is_number(share):
        return MISSING
    return f"{fixed(share, 0)} % of the time: {summary.get('throttle_reasons')}" if share else "none"


def total_words(summaries: Sequence[Summary]) -> list[str]:
    """Return the energy and CO2 of all trainings together, in lines; nothing where no energy is known."""
    energies = _numbers(summaries, "energy_wh")
    if not energies:
        return []
    cpu = _numbers(summaries, "cpu_wh")
    some = "" if len(energies) == len(summaries) else f" (known for {len(energies)} of {len(summaries)} trainings)"
    of_cpu = f", {fixed(sum(cpu), 2, 'Wh')} of it by the CPU, estimated" if cpu else ""
    known = [summary for summary in summaries if is_number(summary.get("co2_g"))]
    factors = sorted({describe_grid(summary.get("grid_g_per_kwh")) for summary in known})
    return [
        f"Energy: {fixed(sum(energies), 2, 'Wh')}{some}{of_cpu}.",
        f"CO2: {amount(sum(_numbers(known, 'co2_g')))} g at {' and '.join(factors) or 'an unknown factor'}.",
    ]


def _numbers(summaries: Sequence[Summary], name: str) -> list[float]:
    return [value for summary in summaries if is_number(value := summary.get(name))]
