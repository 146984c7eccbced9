"""Makes sure that a slot is used again only when the memory that its last worker used on its GPUs is free."""

import time
from collections.abc import Callable, Sequence

from mloptimizer.core.events import Decision
from mloptimizer.core.nouns import Slot
from mloptimizer.hardware.read.nvml import GpuUse, GpuUseReader

_PATIENCE_SECONDS = 30.0
_MARGIN_MB = 256.0  # for each GPU: how much more others may have come to use while a trial ran

ReadUse = Callable[[Sequence[str]], GpuUse | None]
"""Returns the total use of the GPUs with these NVML UUIDs; None if that cannot be read."""


class GpuClaim:
    """One worker's use of its slot's GPUs; made before the worker starts. A slot without GPUs is always free.

    Beside a neighbour, another worker on the same GPUs, the memory in use proves nothing: it includes the neighbour's,
    and grows and shrinks with it. Then the slot is free once NVML does not list the worker's processes.
    """

    def __init__(self, slot: Slot, owner: "GpuMemory") -> None:
        self.slot = slot
        self._owner = owner
        self._deadline = 0.0
        self._pids: set[int] = set()
        self._was_listed = False  # whether NVML has listed a process of the worker
        before = self._look()
        used_mb: float = before.used_mb if before else 0.0
        # The use before the first of the workers that share the GPUs started is what remains after the last of them.
        self.used_before_mb: float = min([used_mb, *(claim.used_before_mb for claim in owner.neighbours(self))])

    def watch(self, pids: set[int]) -> None:
        """Note whether NVML lists the living worker: in some containers it does not know their process numbers."""
        if not self._was_listed and (use := self._look()):
            self._was_listed = bool(use.pids & pids)

    def release(self, pids: set[int]) -> None:
        """Begin to wait for the memory of these processes, which have ended."""
        self._pids = pids
        self._deadline = time.monotonic() + self._owner.patience_seconds
        self._owner.living.discard(self)

    def is_free(self) -> bool:
        """Return whether no more memory is in use than before, or NVML no longer lists the processes."""
        use = self._look()
        if use is None or use.used_mb <= self.used_before_mb + _MARGIN_MB * len(self.slot.gpu_ids):
            return True
        is_listed = bool(use.pids & self._pids)
        self._was_listed |= is_listed
        return not is_listed and (self._was_listed or bool(self._owner.neighbours(self)))

    def is_overdue(self) -> bool:
        return time.monotonic() >= self._deadline

    def explain(self) -> Decision:
        """Return why the slot is used again although its memory is not free."""
        use = self._look()
        holders = sorted(use.pids & self._pids) if use else []
        used = f"{use.used_mb - self.used_before_mb:.0f} MB more are in use than before" if use else "it is unreadable"
        listed = f", and NVML still lists process {holders[0]}" if holders else ""
        reason = f"{self._owner.patience_seconds:g} s after its worker ended {used}{listed}"
        return Decision(None, "GPU memory", f"slot {self.slot.name} is used again", reason)

    def _look(self) -> GpuUse | None:
        return self._owner.read(self.slot.gpu_ids) if self.slot.gpu_ids else None


class GpuMemory:
    """Makes the claims of an engine's workers, and knows which of these live.

    Args:
        read: default: asks NVML, which is open from the first claim on a slot with GPUs until `close`.
        patience_seconds: how long a slot waits for its memory at most.
    """

    def __init__(self, read: ReadUse | None = None, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._nvml = GpuUseReader()
        self.read = read or self._nvml.read
        self.patience_seconds = patience_seconds
        self.living: set[GpuClaim] = set()

    def claim(self, slot: Slot) -> GpuClaim:
        """Return the claim of a worker that is about to start on the slot."""
        claim = GpuClaim(slot, self)
        self.living.add(claim)
        return claim

    def neighbours(self, claim: GpuClaim) -> list[GpuClaim]:
        """Return the claims of the other living workers on the same GPUs."""
        gpus = set(claim.slot.gpu_ids)
        return [other for other in self.living if other is not claim and gpus & set(other.slot.gpu_ids)]

    def close(self) -> None:
        self.living.clear()
        self._nvml.close()
