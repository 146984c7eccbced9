"""Decides how many trials share a GPU: another one starts where there is room, and leaves if that does not pay.

Guarantees: the first trial of a GPU always starts. With `trials_per_gpu` = auto another one starts only when all trials
there have trained steadily, the GPU is idle often enough, and NVML reports more free memory at that moment than the
largest trial of the study was measured to need. After sharing a GPU did not pay, or a trial that shared it ran out of
memory, fewer trials share it for the rest of the phase.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, HardwareSample, MicroBatching
from mloptimizer.core.listener import Listener
from mloptimizer.core.nouns import Slot, TrialPlan
from mloptimizer.engines.gpu_memory import ReadUse
from mloptimizer.hardware.columns import Row, numeric_cell
from mloptimizer.hardware.read.nvml import GpuUseReader

STEADY_ROWS = 8  # of the log, each with new images, after a trial's first epoch: by then pace and memory are known
BUSY_PERCENT = 70.0  # mean utilization from which a GPU has no time for another trial
MEMORY_MARGIN = 1.2  # times the memory of the largest trial must be free
_LEAST_GAIN = 1.1  # times the images per second of the earlier trials must be reached with another trial
_PACE = ("images", "training_s")
_TOPIC = "trials per GPU"


@dataclass
class GpuNeeds:
    """What the trials of a study were measured, or estimated, to need of a GPU."""

    largest_mb: float = 0.0  # of the trial that needs most; 0: unknown

    def learn(self, memory_mb: float) -> None:
        """Add what one trial needs."""
        self.largest_mb = max(self.largest_mb, memory_mb)


@dataclass
class _Resident:
    """A trial that runs on a GPU that may be shared."""

    number: int
    base_mb: float | None  # GPU memory in use before it started; None: unknown, or it was not the first
    has_shared: bool  # in this attempt
    first_epoch: float | None = None  # of this attempt
    images: float = 0.0  # as of the last row
    trains: bool = False  # whether its first step is done
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=STEADY_ROWS))  # steady, with the present neighbours
    fresh: int = 0  # rows since sharing was judged last
    pace_before: float | None = None  # images per second before the newest trial started


@dataclass
class _Gpu:
    """A GPU that may be shared."""

    limit: int  # trials at a time
    residents: dict[int, _Resident] = field(default_factory=dict)  # the newest last
    newest: int | None = None  # trial that is judged by what it does to the pace of the others
    has_paid: bool = True  # whether that was measured to pay


class GpuSharing(Listener):
    """Follows the trials of one phase that share GPUs; slots that are not shared are always offered."""

    def __init__(
        self, settings: Settings, needs: GpuNeeds, note: Callable[[Decision], None], read: ReadUse | None = None
    ) -> None:
        """Args: needs: of the study's trials, which is updated; note: records a choice; read: default: asks NVML."""
        self._auto = settings.trials_per_gpu == "auto"
        if settings.gpu_memory_limit_mb != "auto":
            needs.learn(settings.gpu_memory_limit_mb)
        self._needs, self._note, self._nvml = needs, note, GpuUseReader()
        self._read = read or self._nvml.read
        self._gpus: dict[tuple[str, ...], _Gpu] = {}
        self._slots: dict[int, Slot] = {}
        self._alone: set[int] = set()  # trials that ran out of memory beside others
        self._offers: dict[str, str] = {}  # by slot: why a trial may start there beside others
        self._leaving: list[int] = []
        self._refused: set[tuple[str, ...]] = set()  # GPUs reported as having too little memory

    # What may start

    def order(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return the slots, those on the emptiest GPUs first."""
        return sorted(slots, key=lambda slot: len(self._gpu(slot).residents) if slot.gpu_trials > 1 else 0)

    def offer(self, slot: Slot, waiting: Sequence[int]) -> Slot | None:
        """Return the slot with the memory that a trial may use there, or None if none may start now.

        Args:
            waiting: trials that are to resume next; one that must be alone waits for an empty GPU.
        """
        if slot.gpu_trials == 1 or not (there := self._gpu(slot).residents):
            return slot
        if len(there) >= self._gpu(slot).limit or self._alone & {*there, *waiting}:
            return None
        return self._offer_company(slot) if self._auto else slot

    def _offer_company(self, slot: Slot) -> Slot | None:
        gpu, residents = self._gpu(slot), list(self._gpu(slot).residents.values())
        if not gpu.has_paid or any(len(resident.rows) < STEADY_ROWS for resident in residents):
            return None
        busy = [numeric_cell(row, "gpu0_utilization_percent") for resident in residents for row in resident.rows]
        percents = [percent for percent in busy if percent is not None]
        percent, needed_mb = sum(percents) / len(busy), MEMORY_MARGIN * self._needs.largest_mb
        if len(percents) < len(busy) or percent >= BUSY_PERCENT or not needed_mb:
            return None  # unknown values are no reason to share
        if (use := self._read(slot.gpu_ids)) is None:
            return None
        memory = (
            f"{use.free_mb:,.0f} MB of its memory are free, {needed_mb:,.0f} are required: the largest trial needs "
            f"{self._needs.largest_mb:,.0f}"
        )
        if use.free_mb < needed_mb:
            if slot.gpu_ids not in self._refused:
                self._refused.add(slot.gpu_ids)
                self._note(Decision(None, _TOPIC, f"{len(residents)} on the GPU of slot {slot.name}", memory))
            return None
        self._offers[slot.name] = f"its GPU is busy {percent:.0f} % of the time with {_names(residents)}; {memory}"
        return replace(slot, gpu_memory_mb=int(use.free_mb))

    def trial_started(self, plan: TrialPlan, slot: Slot) -> None:
        """Note that the trial starts on the slot, which was offered."""
        if slot.gpu_trials == 1:
            return
        number, gpu = plan.number, self._gpu(slot)
        there = list(gpu.residents.values())
        use = self._read(slot.gpu_ids) if self._auto and not there else None
        for resident in there:
            resident.pace_before, resident.has_shared = _pace(resident.rows), True
        _forget_rows(gpu)
        gpu.residents[number] = _Resident(number, use.used_mb if use else None, has_shared=bool(there))
        self._slots[number] = slot
        if there and self._auto:
            gpu.newest, gpu.has_paid = number, False
            reason = self._offers.pop(slot.name, "it was offered")
            self._note(Decision(number, _TOPIC, f"{len(gpu.residents)} on the GPU of slot {slot.name}", reason))

    def end(self, number: int, ran_out_of_memory: bool = False) -> bool:
        """Note that the trial's attempt has ended; return whether it shared its GPU.

        If it ran out of memory there, it resumes alone, and that GPU is not shared any more.
        """
        if (slot := self._slots.pop(number, None)) is None:
            return False
        gpu = self._gpu(slot)
        ended = gpu.residents.pop(number)
        for resident in gpu.residents.values():
            resident.pace_before = None
        _forget_rows(gpu)
        gpu.newest, gpu.has_paid = None, True
        if ended.has_shared and ran_out_of_memory:
            gpu.limit = 1
            self._alone.add(number)
            reason = "it ran out of memory beside another trial"
            self._note(Decision(number, _TOPIC, f"1 on the GPU of slot {slot.name}", reason))
        return ended.has_shared

    # What the trials report

    def micro_batches_chosen(self, plan: TrialPlan, chosen: MicroBatching) -> None:
        """Learn what the trial is estimated to need."""
        self._needs.learn(chosen.memory_mb)

    def hardware_sampled(self, plan: TrialPlan, sample: HardwareSample) -> None:
        """Learn the trial's memory, and follow its pace beside the others."""
        slot = self._slots.get(plan.number) if self._auto else None
        if slot is None:
            return
        gpu, row = self._gpu(slot), sample.row
        resident, used_mb = gpu.residents[plan.number], numeric_cell(row, "gpu0_memory_used_mb")
        self._needs.learn(numeric_cell(row, "gpu0_process_memory_mb") or 0.0)
        if used_mb is not None and resident.base_mb is not None and not resident.has_shared:
            self._needs.learn(used_mb - resident.base_mb)  # in some containers NVML lists no process
        _follow(gpu, resident, row)
        if (leaving := self._judge(gpu)) is not None:
            self._leaving.append(leaving)

    def take_leaving(self) -> list[int]:
        """Return, once, the trials that are to leave the GPU that they share, because that does not pay."""
        leaving, self._leaving = self._leaving, []
        return leaving

    def _judge(self, gpu: _Gpu) -> int | None:
        """Compare, every few rows, the pace with that before the newest trial started; return the trial to leave."""
        measured = [resident for resident in gpu.residents.values() if resident.pace_before]
        if gpu.newest is None or not measured or any(resident.fresh < STEADY_ROWS for resident in measured):
            return None
        before = sum(resident.pace_before or 0.0 for resident in measured)
        now = sum(_pace(resident.rows) or 0.0 for resident in measured)
        count, newest = len(gpu.residents), gpu.newest
        least = _LEAST_GAIN * before * (count - 1) / count  # if all slow down alike, sharing pays from here on
        for resident in measured:
            resident.fresh = 0
        pays = now >= least
        if not pays:
            gpu.limit, gpu.newest = count - 1, None
        if not pays or not gpu.has_paid:
            choice = f"{count if pays else count - 1} on the GPU of slot {self._slots[newest].name}"
            reason = (
                f"{_names(measured)}: {now:,.0f} images/s beside trial {newest}, {before:,.0f} without it; sharing "
                f"pays from {least:,.0f} on"
            )
            self._note(Decision(newest, _TOPIC, choice, reason))
        gpu.has_paid = pays
        return None if pays else newest

    def _gpu(self, slot: Slot) -> _Gpu:
        return self._gpus.setdefault(slot.gpu_ids, _Gpu(slot.gpu_trials))

    def close(self) -> None:
        """Close NVML, if it was opened."""
        self._nvml.close()


def _follow(gpu: _Gpu, resident: _Resident, row: Row) -> None:
    """Keep the row if it shows the trial's steady pace with its present neighbours."""
    epoch, images = numeric_cell(row, "epoch"), numeric_cell(row, "images")
    if row.get("part") != "training" or epoch is None or images is None or numeric_cell(row, "training_s") is None:
        return
    if resident.first_epoch is None:
        resident.first_epoch = epoch
    is_new, resident.images, resident.trains = images > resident.images, images, True
    newest = gpu.residents.get(gpu.newest) if gpu.newest is not None else None
    if is_new and epoch > resident.first_epoch and (newest is None or newest.trains):
        resident.rows.append(row)
        resident.fresh += 1


def _forget_rows(gpu: _Gpu) -> None:
    """Forget the rows: they were written with other neighbours."""
    for resident in gpu.residents.values():
        resident.rows.clear()
        resident.fresh = 0


def _pace(rows: Sequence[Row]) -> float | None:
    """Return the images per second of training between the first and the last row; validation does not count."""
    if len(rows) < 2:
        return None
    images, seconds = ((numeric_cell(rows[-1], name) or 0.0) - (numeric_cell(rows[0], name) or 0.0) for name in _PACE)
    return images / seconds if seconds > 0 else None


def _names(residents: Sequence[_Resident]) -> str:
    numbers = [str(resident.number) for resident in residents]
    return f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {', '.join(numbers)}"
