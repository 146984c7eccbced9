"""Serves metrics of this machine and of the searches of a workspace to Prometheus, over HTTP under /metrics.

Everything is read at each scrape, and an unknown value has no sample. There are no other metrics, such as those of
this process or of Python.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily

import mloptimizer
from mloptimizer.core.errors import UsageError
from mloptimizer.hardware.read.live import GpuNow, LiveMachine
from mloptimizer.hardware.read.machine import MB
from mloptimizer.reports.model.searches_now import SearchNow, SearchState, TrialNow
from mloptimizer.reports.terminal.top import Snapshot

_GPU, _SEARCH, _TRIAL = ("gpu", "uuid"), ("study",), ("study", "trial", "phase", "slot")
Samples = Iterable[tuple[tuple[str, ...], float | None]]

# Meaning and labels of every metric; docs/watching.md shows this table.
METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mloptimizer_build_info": ("1; the version of mloptimizer as a label", ("version",)),
    "mloptimizer_cpu_utilization_ratio": ("Share of all logical cores that was busy since the previous scrape", ()),
    "mloptimizer_memory_used_bytes": ("Main memory in use: total less available", ()),
    "mloptimizer_memory_total_bytes": ("Main memory of the machine", ()),
    "mloptimizer_gpu_info": ("1; name and driver of the GPU as labels", (*_GPU, "name", "driver")),
    "mloptimizer_gpu_utilization_ratio": ("Recent share of time in which a kernel ran", _GPU),
    "mloptimizer_gpu_memory_utilization_ratio": ("Recent share of time in which its memory was read or written", _GPU),
    "mloptimizer_gpu_memory_used_bytes": ("Memory of the GPU in use, by all processes", _GPU),
    "mloptimizer_gpu_memory_total_bytes": ("Memory of the GPU", _GPU),
    "mloptimizer_gpu_power_watts": ("Power that the GPU draws", _GPU),
    "mloptimizer_gpu_temperature_celsius": ("Temperature of the GPU's chip", _GPU),
    "mloptimizer_search_running": ("1 while a driver works on the study; 0: it was killed", _SEARCH),
    "mloptimizer_search_start_time_seconds": ("When the search began, Unix time", _SEARCH),
    "mloptimizer_search_slots": ("Trials that the search can run at a time", _SEARCH),
    "mloptimizer_search_running_trials": ("Trials that are running", _SEARCH),
    "mloptimizer_search_explored_trials": ("Trials of the exploration that have ended, also in earlier runs", _SEARCH),
    "mloptimizer_search_planned_trials": ("Trials planned for the exploration", _SEARCH),
    "mloptimizer_search_further_trained_trials": ("Trainings of the hall of fame that have ended", _SEARCH),
    "mloptimizer_trial_running_seconds": ("Time since the trial's current attempt began", _TRIAL),
    "mloptimizer_trial_attempt": ("Number of the current attempt, from 1", _TRIAL),
    "mloptimizer_trial_part_info": ("1; what the trial is doing as a label, see the hardware log", (*_TRIAL, "part")),
    "mloptimizer_trial_epoch": ("Current epoch, from 1; 0 before the first", _TRIAL),
    "mloptimizer_trial_planned_epochs": ("Maximum number of epochs of the trial", _TRIAL),
    "mloptimizer_trial_step": ("Training steps done", _TRIAL),
    "mloptimizer_trial_images_per_second": ("Training images per second, in the newest row of its log", _TRIAL),
    "mloptimizer_trial_data_wait_ratio": ("Share of that time in which the training waited for images", _TRIAL),
    "mloptimizer_trial_cpu_cores": ("Cores that the trial's processes keep busy", _TRIAL),
    "mloptimizer_trial_memory_bytes": ("Resident memory of the trial's processes", _TRIAL),
    "mloptimizer_trial_last_row_timestamp_seconds": ("When the newest row of its log was read, Unix time", _TRIAL),
    "mloptimizer_trial_looks_hung": ("1 if rows or steps have been missing for too long, otherwise 0", _TRIAL),
}


class SnapshotCollector:
    """Turns a fresh snapshot into metrics at each scrape; concurrent scrapes are answered one by one."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric that has samples."""
        with self._lock:
            snapshot = self._take()
        for name, samples in _samples(snapshot).items():
            meaning, labels = METRICS[name]
            family = GaugeMetricFamily(name, meaning, labels=labels)
            for values, value in samples:
                if value is not None:
                    family.add_metric(values, value)
            if family.samples:
                yield family


def _samples(snapshot: Snapshot) -> dict[str, Samples]:
    machine = snapshot.machine
    samples: dict[str, Samples] = {
        "mloptimizer_build_info": [((mloptimizer.__version__,), 1.0)],
        "mloptimizer_cpu_utilization_ratio": [((), _times(machine.cpu_percent, 0.01))],
        "mloptimizer_memory_used_bytes": [((), machine.ram_used_mb * MB)],
        "mloptimizer_memory_total_bytes": [((), machine.ram_total_mb * MB)],
        "mloptimizer_gpu_info": [
            ((*_of_gpu(now), now.gpu.name or "", now.gpu.driver or ""), 1.0) for now in machine.gpus
        ],
    }
    for name, (column, factor) in _GPU_COLUMNS.items():
        samples[name] = [(_of_gpu(now), _times(now.values.get(column), factor)) for now in machine.gpus]
    for name, of_search in _SEARCH_VALUES.items():
        samples[name] = [((search.study,), of_search(search)) for search in snapshot.searches]
    trials = [(_of_trial(search, trial), trial) for search in snapshot.searches for trial in search.trials]
    samples["mloptimizer_trial_part_info"] = [((*labels, trial.part), 1.0) for labels, trial in trials if trial.part]
    for name, of_trial in _TRIAL_VALUES.items():
        samples[name] = [(labels, of_trial(trial)) for labels, trial in trials]
    return samples


_GPU_COLUMNS: Mapping[str, tuple[str, float]] = {  # column of the hardware log, and factor to the metric's unit
    "mloptimizer_gpu_utilization_ratio": ("utilization_percent", 0.01),
    "mloptimizer_gpu_memory_utilization_ratio": ("memory_utilization_percent", 0.01),
    "mloptimizer_gpu_memory_used_bytes": ("memory_used_mb", MB),
    "mloptimizer_gpu_memory_total_bytes": ("memory_total_mb", MB),
    "mloptimizer_gpu_power_watts": ("power_w", 1.0),
    "mloptimizer_gpu_temperature_celsius": ("temperature_c", 1.0),
}
_SEARCH_VALUES: Mapping[str, Callable[[SearchNow], float | None]] = {
    "mloptimizer_search_running": lambda search: float(search.state is not SearchState.CUT_OFF),
    "mloptimizer_search_start_time_seconds": lambda search: _unix_time(search.since),
    "mloptimizer_search_slots": lambda search: 0 if search.state is SearchState.CUT_OFF else len(search.slots),
    "mloptimizer_search_running_trials": lambda search: len(search.trials),
    "mloptimizer_search_explored_trials": lambda search: search.explored,
    "mloptimizer_search_planned_trials": lambda search: search.planned,
    "mloptimizer_search_further_trained_trials": lambda search: search.further_trained,
}
_TRIAL_VALUES: Mapping[str, Callable[[TrialNow], float | None]] = {
    "mloptimizer_trial_running_seconds": lambda trial: trial.running_s,
    "mloptimizer_trial_attempt": lambda trial: trial.attempt,
    "mloptimizer_trial_epoch": lambda trial: trial.value("epoch"),
    "mloptimizer_trial_planned_epochs": lambda trial: trial.epochs,
    "mloptimizer_trial_step": lambda trial: trial.value("step"),
    "mloptimizer_trial_images_per_second": lambda trial: trial.value("images_per_second"),
    "mloptimizer_trial_data_wait_ratio": lambda trial: _times(trial.value("data_wait_percent"), 0.01),
    "mloptimizer_trial_cpu_cores": lambda trial: _times(trial.value("process_cpu_percent"), 0.01),
    "mloptimizer_trial_memory_bytes": lambda trial: _times(trial.value("process_rss_mb"), MB),
    "mloptimizer_trial_last_row_timestamp_seconds": lambda trial: _unix_time(trial.row_time),
    "mloptimizer_trial_looks_hung": lambda trial: float(bool(trial.trouble)),
}


def _of_gpu(now: GpuNow) -> tuple[str, str]:
    return now.gpu.label, now.gpu.uuid


def _of_trial(search: SearchNow, trial: TrialNow) -> tuple[str, str, str, str]:
    return search.study, str(trial.number), trial.phase.value, trial.slot


def _unix_time(time: datetime | None) -> float | None:
    return time.timestamp() if time else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


@contextlib.contextmanager
def serve_metrics(take: Callable[[LiveMachine], Snapshot], host: str, port: int) -> Iterator[str]:
    """Serve from separate threads until the block ends; yield the address of the metrics.

    Args:
        take: reads everything; the endpoint has its own reader of the machine.
        host: address to listen on; whoever reaches it can read the names of studies and what they are doing.
        port: port to listen on; 0: any free one.

    Raises:
        UsageError: the port is taken, or the address is not one of this machine's.
    """
    machine = LiveMachine()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(lambda: take(machine)))
    try:
        if port:  # some Python versions would share it with another program
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        machine.close()
        reason = getattr(error, "strerror", None) or str(error)
        place = f"top --prometheus: cannot listen on {host}, port {port}"
        raise UsageError(f"{place}: {reason}. Choose another with --prometheus N or --host ADDRESS.") from error
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        machine.close()
