"""What the driver costs: how fast it answers, how much memory it takes, and whether it loads TensorFlow.

    python benchmarks/driver.py

It runs a real search of four digits trials. It measures memory only on Linux.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

RUNS = 10
POLL_SECONDS = 0.1
LIBRARIES = ("tensorflow", "keras", "pandas", "sklearn", "scipy")


def main() -> None:
    """Print the table."""
    command = [sys.executable, "-m", "mloptimizer"]
    python, answer = time_in_turn([sys.executable, "-c", "pass"], [*command, "--help"])
    rows = [
        ("python -c pass, median", f"{python:.3f} s", ""),
        ("mloptimizer --help, median", f"{answer:.3f} s", "below 0.300 s"),
        ("large libraries that --help imports", ", ".join(imported_by_help()) or "none", "none"),
    ]
    if Path("/proc/self/maps").exists():
        peak_mb, mapped, polls, trials = watch_search(command)
        rows += [
            (f"driver's peak memory in a search of {trials} trials", f"{peak_mb:.0f} MB", "below 150 MB"),
            (f"large libraries in its memory map, {polls} polls", ", ".join(mapped) or "none", "no tensorflow"),
        ]
    table = Table("what", "measured", "goal", title=f"driver, {RUNS} runs in turn, {os.cpu_count()} cores")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def time_in_turn(*commands: list[str]) -> list[float]:
    """Return each command's median wall time in seconds; the commands take turns, after a warm-up run."""
    seconds: list[list[float]] = [[] for _ in commands]
    for run in range(RUNS + 1):
        for command, times in zip(commands, seconds, strict=True):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if run:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def imported_by_help() -> list[str]:
    """Return which of the large libraries ``--help`` imports."""
    code = (
        "import json, runpy, sys\nsys.argv = ['mloptimizer', '--help']\n"
        "try:\n    runpy.run_module('mloptimizer', run_name='__main__')\n"
        f"finally:\n    print(json.dumps([name for name in {(*LIBRARIES, 'optuna')!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


def watch_search(command: list[str]) -> tuple[float, list[str], int, int]:
    """Run a search; return its driver's peak memory in MB, the libraries in its memory map, and the polls and trials.

    VmHWM is the process's own peak resident memory, including shared pages, without children.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["search", "--dataset", "digits", "--trials", "4", "--explore-only", "--workspace", folder]
        peak_kb, mapped, polls = 0, set[str](), 0
        with subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL) as driver:
            while driver.poll() is None:
                peak_kb = max(peak_kb, peak_memory_kb(driver.pid))
                mapped |= mapped_libraries(driver.pid)
                polls += 1
                time.sleep(POLL_SECONDS)
        if driver.returncode:
            sys.exit(f"the search ended with exit code {driver.returncode}")
        trials = len(list(Path(folder).glob("metrics_data/*/trial_*/result.json")))
    return peak_kb / 1024, sorted(mapped), polls, trials


def peak_memory_kb(pid: int) -> int:
    """Return the process's VmHWM; 0 when it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def mapped_libraries(pid: int) -> set[str]:
    """Return which of the large libraries have files in the process's memory map."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {name for name in LIBRARIES if f"/{name}/" in maps}  # numpy's own libscipy_openblas is not SciPy


if __name__ == "__main__":
    main()
