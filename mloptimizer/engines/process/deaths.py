"""Explains from what a dead worker left behind why it died: its exit code, its log, and the kernel's kills."""

import os
import re
import signal
from pathlib import Path

from mloptimizer.core.nouns import Failure, FailureKind, TrialPlan
from mloptimizer.core.trial_files import WORKER_LOG

_LOG_TAIL_BYTES, _LONGEST_ERROR = 4000, 200
_RAISED = re.compile(r"[A-Za-z_][\w.]*(: |$)")
_FATAL = re.compile(r"F\d{4} |\d{4}-\d\d-\d\d [\d:.]+: F |Fatal Python error|terminate called")
_OUT_OF_MEMORY_TEXTS = ("bad_alloc", "failed to allocate", "out of memory", "out_of_memory")  # in lower case


def explain_death(plan: TrialPlan, exit_code: int | None, oom_kills: int) -> Failure:
    """Return why the trial's worker died, with the end of its log.

    Args:
        exit_code: of its process; negative: the signal that killed it; None: unknown.
        oom_kills: how many processes the kernel killed during its life because memory ran out.
    """
    tail = _log_tail(plan)
    if exit_code in (-signal.SIGKILL, None) and oom_kills > 0:
        message = "the worker was killed by the system because memory ran out"
        return Failure(FailureKind.OUT_OF_MEMORY, message, tail)
    see = f"see {WORKER_LOG} in the trial's folder"
    if exit_code == -signal.SIGABRT and any(text in tail.lower() for text in _OUT_OF_MEMORY_TEXTS):
        return Failure(FailureKind.OUT_OF_MEMORY, f"the worker aborted: it ran out of memory (SIGABRT); {see}", tail)
    # An unknown exit code means that its fork server, which would have known it, is gone.
    kind = FailureKind.LOST_WORKER if exit_code is None else FailureKind.CRASH
    return Failure(kind, f"the worker {describe_exit(exit_code)}{_last_error(tail)}; {see}", tail)


def _last_error(log: str) -> str:
    """Return the error that ended the process, as Python or TensorFlow's C++ wrote it; empty if neither did."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _FATAL.match(line)][-1:]
    if not errors and any(line.startswith("Traceback ") for line in lines) and _RAISED.match(lines[-1]):
        errors = lines[-1:]
    return f" ({errors[0].strip()[:_LONGEST_ERROR]})" if errors else ""


def describe_exit(code: int | None) -> str:
    """Return how a process ended, as the end of a sentence."""
    if code is None:
        return "ended, and its exit code is unknown"
    if code >= 0:
        return f"ended with exit code {code}"
    known = {each.value: each.name for each in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"


def _log_tail(plan: TrialPlan) -> str:
    try:
        with (Path(plan.directory) / WORKER_LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
