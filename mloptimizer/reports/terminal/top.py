"""Shows what this machine and the searches of a workspace are doing now.

An unknown value is a dash, and a machine without GPUs says so. It fits a terminal of 80 columns.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mloptimizer.core.nouns import Phase
from mloptimizer.hardware.read.live import LiveMachine, MachineNow
from mloptimizer.hardware.read.machine_facts import host_name
from mloptimizer.reports.formatting import MISSING, fixed
from mloptimizer.reports.model.searches_now import SearchNow, SearchState, TrialNow, read_searches
from mloptimizer.reports.terminal.fitting_table import FittingTable
from mloptimizer.store.workspace import Workspace

_NO_GPU = "no GPU: none that may be used here, or no NVIDIA library to read it with"
_MOST_IDLE = 8  # slots that are named; a cluster has many
_BAR_WIDTH = 10
_SHORT_PHASES = {Phase.EXPLORATION: "explore", Phase.HALL_OF_FAME: "hall", Phase.TEST_EVALUATION: "test"}


@dataclass(frozen=True)
class Snapshot:
    """Everything shown, read at one time (UTC)."""

    time: datetime
    machine: MachineNow
    searches: tuple[SearchNow, ...]


def take_snapshot(workspace: Workspace, machine: LiveMachine) -> Snapshot:
    """Return what the machine and the workspace's searches are doing now."""
    now = datetime.now(UTC)
    return Snapshot(now, machine.read(), tuple(read_searches(workspace, now)))


def top_view(snapshot: Snapshot, footer: str = "") -> RenderableType:
    """Return the snapshot for a terminal, with the footer as its last line."""
    clock = snapshot.time.astimezone().strftime("%H:%M:%S")
    title = Text.assemble(("mloptimizer top", "bold"), f"   {host_name()}   {clock}")
    parts: list[RenderableType] = [title, _machine_table(snapshot)]
    for search in snapshot.searches:
        parts += [Text(), *_search_parts(search)]
    if not snapshot.searches:
        parts += [Text(), Text("No search is running in this workspace.", style="dim")]
    return Group(*parts, *([Text(), Text(footer, style="dim")] if footer else []))


def _machine_table(snapshot: Snapshot) -> RenderableType:
    machine, owners = snapshot.machine, _owners(snapshot.searches)
    table = Table.grid(padding=(0, 1))
    for _ in range(8):
        table.add_column(no_wrap=True)
    table.add_row("CPU", *_share(machine.cpu_percent))
    ram = f"{machine.ram_used_mb / 1024:.1f} of {machine.ram_total_mb / 1024:.1f} GB"
    table.add_row("RAM", *_share(100 * machine.ram_used_mb / machine.ram_total_mb), ram)
    for now in machine.gpus:
        used, total = now.values.get("memory_used_mb"), now.values.get("memory_total_mb")
        memory = f"{used / 1024:.1f} of {total / 1024:.1f} GB" if used is not None and total else MISSING
        table.add_row(
            f"GPU {now.gpu.label}",
            *_share(now.values.get("utilization_percent")),
            memory,
            fixed(now.values.get("power_w"), 0, "W"),
            fixed(now.values.get("temperature_c"), 0, "°C"),
            Text(owners.get(now.gpu.uuid, "no trial"), style="" if now.gpu.uuid in owners else "dim"),
            Text(now.gpu.name or "", style="dim"),
        )
    return table if machine.gpus else Group(table, Text(_NO_GPU, style="dim"))


def _owners(searches: tuple[SearchNow, ...]) -> Mapping[str, str]:
    """Return by GPU, as text, which trials run on it."""
    owners: dict[str, list[str]] = {}
    for search in searches:
        slots = {slot.get("name"): slot for slot in search.slots}
        for trial in search.trials:
            gpu_ids = slots.get(trial.slot, {}).get("gpu_ids")
            for uuid in gpu_ids if isinstance(gpu_ids, list) else ():
                owners.setdefault(str(uuid), []).append(str(trial.number))
    return {uuid: f"trial {', '.join(numbers)}" for uuid, numbers in owners.items()}


def _share(percent: float | None) -> tuple[Text, str]:
    """Return a bar and the number beside it."""
    filled = round((percent or 0.0) / 100 * _BAR_WIDTH)
    bar = Text.assemble(("█" * filled, "green"), ("·" * (_BAR_WIDTH - filled), "dim"))
    return bar, f"{fixed(percent, 0):>3} %"


def _search_parts(search: SearchNow) -> Iterator[RenderableType]:
    yield Text.assemble((search.study, "bold"), "   ", *_describe(search))
    if search.damage:
        yield Text(search.damage, style="red")
    if search.trials:
        yield _trials_table(search)
        for trial in search.trials:
            if trial.trouble:
                yield Text(f"trial {trial.number} looks hung: {trial.trouble}", style="bold red")
    if search.state is SearchState.CUT_OFF:
        yield Text(f"Continue with: mloptimizer resume {search.study}")
    busy = {trial.slot for trial in search.trials}
    idle = [str(slot.get("name")) for slot in search.slots if slot.get("name") not in busy]
    if idle and search.state is SearchState.RUNNING:
        more = f" and {len(idle) - _MOST_IDLE} more" if len(idle) > _MOST_IDLE else ""
        yield Text(f"idle slots: {', '.join(idle[:_MOST_IDLE])}{more}", style="dim")


def _describe(search: SearchNow) -> Iterator[str | tuple[str, str]]:
    if search.state is SearchState.STARTING:
        yield "starting"
    elif search.state is SearchState.CUT_OFF:
        yield ("cut off: its process is gone", "yellow")
    elif search.paused:
        yield (f"paused since {search.paused.astimezone():%H:%M}; continue with: ", "yellow")
        yield f"mloptimizer resume {search.study}"
    else:
        yield f"{search.explored} of {search.planned if search.planned is not None else '?'} explored"
        if search.further_trained:
            yield f", {search.further_trained} trained further"
        yield f"   {len(search.trials)} running in {len(search.slots)} slots"
        if search.host and search.host != host_name():
            yield (f"   on {search.host}", "yellow")


def _trials_table(search: SearchNow) -> FittingTable:
    table = FittingTable("trial", "phase", "slot", "doing", lined=False)
    with_gpus = any(_gpu_shares(trial) for trial in search.trials)
    table.add_numbers("epoch", "step", "images/s", "wait %", *(["GPU %"] if with_gpus else []), "RAM GB", "time")
    for trial in search.trials:
        table.add_row(*map(Text, _cells(trial, with_gpus)), style="bold red" if trial.trouble else "")
    return table


def _cells(trial: TrialNow, with_gpus: bool) -> list[str]:
    rss, shares = trial.value("process_rss_mb"), _gpu_shares(trial)
    epoch = fixed(trial.value("epoch"), 0)
    return [
        f"{trial.number} #{trial.attempt}" if trial.attempt > 1 else str(trial.number),
        _SHORT_PHASES[trial.phase],
        trial.slot,
        trial.part or ("starting" if not trial.row else "between"),
        f"{epoch}/{trial.epochs}" if trial.epochs else epoch,
        fixed(trial.value("step"), 0),
        fixed(trial.value("images_per_second"), 0),
        fixed(trial.value("data_wait_percent"), 0),
        *([fixed(fmean(shares) if shares else None, 0)] if with_gpus else []),
        fixed(rss / 1024 if rss is not None else None, 1),
        _clock(trial.running_s),
    ]


def _gpu_shares(trial: TrialNow) -> list[float]:
    """Return the utilization of each of the trial's GPUs, %, as far as known."""
    names = [name for name in trial.row if re.fullmatch(r"gpu\d+_utilization_percent", name)]
    return [share for name in names if (share := trial.value(name)) is not None]


def _clock(seconds: float | None) -> str:
    """Return the time in a form such as 12:07 or 1:02:07."""
    if seconds is None:
        return MISSING
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def show_live(console: Console, take: Callable[[], Snapshot], wait: Callable[[], bool], footer: str) -> None:
    """Show one snapshot after another, on a separate screen, while `wait` returns True."""
    with Live(top_view(take(), footer), console=console, screen=True, auto_refresh=False) as live:
        while wait():
            live.update(top_view(take(), footer), refresh=True)
