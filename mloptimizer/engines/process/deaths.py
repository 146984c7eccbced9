"""Tells from what a dead worker left behind why it died: its exit code, its log, and what the kernel did meanwhile."""

import os
import re
import signal
from pathlib import Path

from mloptimizer.core.nouns import Failure, FailureKind, TrialPlan
from mloptimizer.core.trial_files import WORKER_LOG

_LOG_TAIL_BYTES, _LONGEST_WORDS = 4000, 200
_RAISED = re.compile(r"[A-Za-z_][\w.]*(: |$)")
_FATAL = re.compile(r"F\d{4} |\d{4}-\d\d-\d\d [\d:.]+: F |Fatal Python error|terminate called")
_WORDS_OF_SHORTAGE = ("bad_alloc", "failed to allocate", "out of memory", "out_of_memory")  # in lower case


def explain_death(plan: TrialPlan, exit_code: int | None, oom_kills: int) -> Failure:
    """Return why the trial's worker died, with the end of its log.

    Args:
        exit_code: of its process; negative: the signal that killed it; None: unknown.
        oom_kills: how many processes the kernel killed for want of memory while it lived.
    """
    tail = _log_tail(plan)
    if exit_code in (-signal.SIGKILL, None) and oom_kills > 0:
        reason = "was killed by the system, whose memory was used up"
        return Failure(FailureKind.OUT_OF_MEMORY, f"the worker {reason}", tail)
    if exit_code == -signal.SIGABRT and any(words in tail.lower() for words in _WORDS_OF_SHORTAGE):
        message = f"the worker gave up for want of memory (SIGABRT); see {WORKER_LOG} in the trial's folder"
        return Failure(FailureKind.OUT_OF_MEMORY, message, tail)
    message = f"the worker {describe_exit(exit_code)}{_last_words(tail)}; see {WORKER_LOG} in the trial's folder"
    # Its fork server is gone, which would have known its exit code.
    return Failure(FailureKind.LOST_WORKER if exit_code is None else FailureKind.CRASH, message, tail)


def _last_words(log: str) -> str:
    """Return the error that ended the process, as Python or TensorFlow's C++ wrote it; empty where neither did."""
    lines = [line for line in log.splitlines() if line.strip()]
    said = [line for line in lines if _FATAL.match(line)][-1:]
    if not said and any(line.startswith("Traceback ") for line in lines) and _RAISED.match(lines[-1]):
        said = lines[-1:]
    return f" ({said[0].strip()[:_LONGEST_WORDS]})" if said else ""


def describe_exit(code: int | None) -> str:
    """Return in words how a process ended."""
    if code is None:
        return "ended, and its exit code is unknown"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"


def _log_tail(plan: TrialPlan) -> str:
    try:
        with (Path(plan.directory) / WORKER_LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
