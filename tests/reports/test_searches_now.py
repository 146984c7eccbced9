"""Reports on running searches, from hand-written files and from a real search."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mloptimizer.core.errors import UsageError
from mloptimizer.core.files import waiting_for_room
from mloptimizer.core.locks import hold_lock
from mloptimizer.core.nouns import DatasetInfo, FailureKind, Slot, TrialPlan, failed
from mloptimizer.hardware.read.live import GpuNow, MachineNow
from mloptimizer.hardware.read.machine_facts import host_name, remember_machines
from mloptimizer.hardware.read.nvml import Gpu
from mloptimizer.reports.model.searches_now import SearchState, read_last_rows, read_searches
from mloptimizer.reports.prometheus import METRICS, serve_metrics
from mloptimizer.reports.terminal.top import Snapshot, top_view
from mloptimizer.store.activity import Activity
from mloptimizer.store.workspace import Workspace
from tests.hardware.nvml.stand_in import NvmlStandIn, build_nvml_stand_in
from tests.reports.study_files import text_of
from tests.reports.watched_records import running_trial, write_log, write_running, write_study
from tests.shell import SMALL, run, start, wait_for, write_small_space
from tests.small_searches import run_small_search, train
from tests.study.small_disk import fill, run_on_small_disk

NOW = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)
READ_GPUS = """
import json
from mloptimizer.hardware.read.machine_facts import read_machine_facts
from mloptimizer.hardware.read.live import LiveMachine
machine, facts = LiveMachine(), read_machine_facts()
read = lambda: [gpu.values["power_w"] for gpu in machine.read().gpus]
watts = read()
set_values(error__1__all=15)
print(json.dumps([facts["gpus"], facts["cuda"], watts, read()]))
machine.close()
"""
DOCS = Path(__file__).parents[2] / "docs/watching.md"


def row(second: float, **cells: Any) -> dict[str, Any]:
    time = (NOW - timedelta(seconds=second)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time_utc": time, "seconds": 1.0, "part": "training", "epoch": 2, **cells}


@pytest.fixture
def searched(workspace: Workspace) -> Iterator[Workspace]:
    """A workspace where this process searches the study a and trial 3 is running."""
    write_study(workspace, "a")
    write_running(workspace, "a", [running_trial()])
    with hold_lock(workspace.driver_lock("a")):
        yield workspace


def snapshot(workspace: Workspace, gpus: int = 1) -> Snapshot:
    figures = {"utilization_percent": 61.0, "memory_used_mb": 2048.0, "memory_total_mb": 81920.0, "power_w": 250.0}
    found = [GpuNow(Gpu(i, f"GPU-{i}", 'A "GPU"', 81920, (9, 0), "580", False), figures) for i in range(gpus)]
    return Snapshot(NOW, MachineNow(tuple(found), 50.0, 1024.0, 2048.0), tuple(read_searches(workspace, NOW)))


def test_a_running_trial_has_the_newest_row_of_its_log(searched: Workspace) -> None:
    write_log(searched.hardware_log("a", 3), [row(2, step=10), row(1, step=20, images_per_second=512.5)])
    (search,) = read_searches(searched, NOW)
    (trial,) = search.trials
    assert (search.state, search.planned, trial.running_s, trial.trouble) == (SearchState.RUNNING, 9, 60.0, "")
    assert (trial.part, trial.value("step"), trial.value("images_per_second")) == ("training", 20.0, 512.5)


@pytest.mark.parametrize(
    ("rows", "trouble"),
    [
        ([row(50, step=20)], "last row 50 s ago"),
        ([row(second, step=20) for second in range(40, 0, -1)], "no step for 40 s"),
        ([row(second, step=20, part="validation") for second in range(40, 0, -1)], ""),
        ([row(second, step=-second) for second in range(40, 0, -1)], ""),
        ([row(900, step=20)], ""),
    ],
)
def test_a_trial_that_is_silent_or_stands_still_is_marked(
    searched: Workspace, rows: list[dict[str, Any]], trouble: str
) -> None:
    write_log(searched.hardware_log("a", 3), rows)
    trial = read_searches(searched, NOW)[0].trials[0]
    assert trial.trouble == trouble
    assert ("looks hung" in text_of(top_view(snapshot(searched)), 80)) == bool(trouble)


def test_instances_of_a_gpu_have_different_labels(searched: Workspace) -> None:
    gpus = [Gpu(0, f"MIG-{i}", "H100 1g", 9728, (9, 0), "580", True, "GPU-0", (i, 0)) for i in (7, 8)]
    now = Snapshot(NOW, MachineNow(tuple(GpuNow(gpu, {}) for gpu in gpus), None, 1.0, 2.0), ())
    shown = text_of(top_view(now), 80)
    assert "GPU 0.7.0" in shown and "GPU 0.8.0" in shown


def test_only_the_end_of_a_log_is_read_without_its_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path, [row(1, step=step) for step in range(5000)])
    with path.open("a") as file:
        file.write("2026-01-01T00:0")
    rows = read_last_rows(path)
    assert rows[-1]["step"] == "4999"
    assert 100 < len(rows) < 5000
    assert read_last_rows(tmp_path / "missing.csv") == []
    path.write_text("something else\n1,2\n")
    assert read_last_rows(path) == []


def test_a_killed_search_and_a_starting_one_have_different_states(workspace: Workspace) -> None:
    for name in ("killed", "starts"):
        workspace.study(name).mkdir(parents=True)
        workspace.driver_lock(name).write_text("")
    write_running(workspace, "killed", [running_trial()])
    with hold_lock(workspace.driver_lock("starts")):
        states = {search.study: search.state for search in read_searches(workspace, NOW)}
        text = text_of(top_view(snapshot(workspace, 0)), 80)
    assert states == {"killed": SearchState.CUT_OFF, "starts": SearchState.STARTING}
    assert "mloptimizer resume killed" in text
    assert "starting" in text
    assert "no GPU" in text


def test_a_paused_search_shows_since_when_and_how_to_resume_it(searched: Workspace) -> None:
    write_running(searched, "a", [], paused_utc="2026-01-01T12:00:00+00:00")
    assert [search.state for search in read_searches(searched, NOW)] == [SearchState.PAUSED]
    text = text_of(top_view(snapshot(searched, 0)), 80)
    assert "paused since" in text
    assert "mloptimizer resume a\n" in text
    assert "idle slots" not in text


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"trials": 3}', '{"trials": [3, {}, {"number": -1}, {"number": 1, "phase": "x"}], "slots": [4]}'],
)
def test_damaged_files_hide_nothing_and_raise_nothing(searched: Workspace, content: str) -> None:
    searched.running_file("a").write_text(content)
    searched.study_file("a").write_text(content)
    searched.study("b").mkdir()
    (searched.metrics / "no name").mkdir()
    (searched.metrics / "no name/driver.lock").write_text("")
    assert [search.study for search in read_searches(searched, NOW)] == ["a"]
    assert "a" in text_of(top_view(snapshot(searched)), 80)


def test_the_view_fits_80_columns_and_shows_which_trial_runs_on_a_gpu(searched: Workspace) -> None:
    cells = {"images_per_second": 123456.0, "data_wait_percent": 100.0, "gpu0_utilization_percent": 99.0}
    write_log(searched.hardware_log("a", 3), [row(1, step=123456, process_rss_mb=99999.0, **cells)])
    text = text_of(top_view(snapshot(searched, 2)), 80)
    assert "…" not in text
    assert "trial 3" in text
    assert "no trial" in text
    assert re.search(r"3 +explore +gpu0 +training +2/8 +123456 +123456 +100 +99 +97\.7 +1:00", text)


def test_running_json_exists_only_while_a_search_runs(
    workspace: Workspace, make_dataset: Callable[..., DatasetInfo]
) -> None:
    def running() -> list[int]:
        path = workspace.running_file("s")
        return [trial["number"] for trial in json.loads(path.read_text())["trials"]] if path.exists() else []

    def watch(plan: TrialPlan, *others: Any) -> Any:
        wait_for(lambda: running() == [plan.number])
        return train(plan, *others)

    run_small_search(workspace, make_dataset(), watch, trials=2, explore_only=True)
    assert not workspace.running_file("s").exists()
    plan = json.loads((workspace.trial("s", 0) / "plan.json").read_text())
    assert plan["slot"]["host"] == host_name()
    result = json.loads((workspace.trial("s", 0) / "result.json").read_text())
    assert result["choices"] == {"precision": "float32"}


def test_running_json_has_the_first_trial_before_its_process_has_started(
    tmp_path: Path, make_plan: Callable[..., TrialPlan]
) -> None:
    path = tmp_path / "running.json"
    Activity(path).trial_started(make_plan(4), Slot("one"))
    assert [trial["number"] for trial in json.loads(path.read_text())["trials"]] == [4]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of its own, as Linux does")
def test_on_a_full_disk_running_json_is_removed_without_waiting(
    tmp_path: Path, make_plan: Callable[..., TrialPlan]
) -> None:
    def on_disk(disk: Path) -> None:
        activity, path = Activity(disk / "running.json"), disk / "running.json"
        activity.slots_given([Slot("one")])
        assert path.is_file()
        filler = fill(disk)
        with waiting_for_room(pytest.fail):
            activity.trial_started(make_plan(1), Slot("one"))
            activity.turn_ended()
        assert not path.exists(), "it would be out of date"
        filler.unlink()
        activity.trial_started(make_plan(2), Slot("one"))
        activity.turn_ended()
        assert [trial["number"] for trial in json.loads(path.read_text())["trials"]] == [1, 2]

    run_on_small_disk(tmp_path / "disk", 64, on_disk)


def test_gpus_are_read_directly_and_listed_as_facts(tmp_path: Path) -> None:
    nvml = NvmlStandIn(build_nvml_stand_in(tmp_path), tmp_path / "state.txt")
    nvml.set(gpus=2, gpu__1__power_mw=99_000)
    gpus, cuda, watts, lost = nvml.run(READ_GPUS)
    assert gpus == [{"name": "NVIDIA Stand-in", "memory_mb": 81920, "driver": "580.95.05", "count": 2}]
    assert (cuda, watts, lost) == ("13.0", [250.0, 99.0], [250.0, None])


def test_a_search_continues_without_a_writable_running_json(
    tmp_path: Path, make_plan: Callable[..., TrialPlan], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    activity = Activity(tmp_path / "file/running.json")
    activity.trial_started(make_plan(1), Slot("one"))
    activity.turn_ended()
    activity.trial_ended(make_plan(1), failed(1, FailureKind.CRASH, "killed"))
    activity.turn_ended()
    activity.search_ended()
    assert len(caplog.records) == 1


def test_a_study_remembers_the_machines_it_ran_on() -> None:
    first = remember_machines({}, "2026-01-01")
    assert (first["machine"]["host"], first["machine"]["since_utc"]) == (host_name(), "2026-01-01")
    assert remember_machines(first, "2026-01-02") == first
    elsewhere = {**first["machine"], "host": "other"}
    moved = remember_machines({"machine": elsewhere}, "2026-01-03")
    assert (moved["machine"]["since_utc"], moved["earlier_machines"]) == ("2026-01-03", [elsewhere])


# Prometheus

SERVED = """
build_info cpu_utilization_ratio memory_used_bytes memory_total_bytes gpu_info gpu_utilization_ratio
gpu_memory_utilization_ratio gpu_memory_used_bytes gpu_memory_total_bytes gpu_power_watts
gpu_temperature_celsius search_running search_start_time_seconds search_slots search_running_trials
search_explored_trials search_planned_trials search_further_trained_trials trial_running_seconds trial_attempt
trial_part_info trial_epoch trial_planned_epochs trial_step trial_images_per_second trial_data_wait_ratio
trial_cpu_cores trial_memory_bytes trial_last_row_timestamp_seconds trial_looks_hung
"""


def scrape(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def test_every_metric_is_served_with_its_unit_and_its_labels_escaped(searched: Workspace) -> None:
    cells = {"images_per_second": 5.0, "data_wait_percent": 50.0, "process_cpu_percent": 150.0, "process_rss_mb": 1.0}
    write_log(searched.hardware_log("a", 3), [row(1, step=20, **cells)])
    taken = snapshot(searched)
    taken.machine.gpus[0].values.update(temperature_c=55.0, memory_utilization_percent=37.0)  # type: ignore[attr-defined]
    with serve_metrics(lambda machine: taken, "127.0.0.1", 0) as address:
        assert address.startswith("http://127.0.0.1:")
        families = scrape(address)
    assert set(families) == {f"mloptimizer_{name}" for name in SERVED.split()}
    value = {name: family.samples[0].value for name, family in families.items()}
    assert value["mloptimizer_gpu_utilization_ratio"] == pytest.approx(0.61)
    assert value["mloptimizer_gpu_memory_used_bytes"] == 2**31
    assert value["mloptimizer_trial_data_wait_ratio"] == 0.5
    assert value["mloptimizer_trial_cpu_cores"] == 1.5
    assert families["mloptimizer_gpu_info"].samples[0].labels["name"] == 'A "GPU"'
    assert families["mloptimizer_trial_step"].samples[0].labels == {
        "study": "a", "trial": "3", "phase": "exploration", "slot": "gpu0"
    }  # fmt: skip


def test_an_unknown_value_has_no_sample(searched: Workspace) -> None:
    taken = snapshot(searched, 0)
    with serve_metrics(lambda machine: taken, "127.0.0.1", 0) as address:
        families = scrape(address)
    assert "mloptimizer_gpu_utilization_ratio" not in families
    assert "mloptimizer_trial_step" not in families
    assert not any(name.startswith(("python_", "process_")) for name in families)


def test_every_metric_is_documented() -> None:
    text = DOCS.read_text()
    assert [name for name in METRICS if f"`{name}`" not in text] == []


def test_a_taken_port_and_a_foreign_address_are_one_line(searched: Workspace) -> None:
    taken = snapshot(searched)
    with serve_metrics(lambda machine: taken, "127.0.0.1", 0) as address:
        port = int(address.split(":")[2].split("/")[0])
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1, port {port}: "):
            serve_metrics(lambda machine: taken, "127.0.0.1", port).__enter__()
    with pytest.raises(UsageError, match=r"203\.0\.113\.7, port 0: "):
        serve_metrics(lambda machine: taken, "203.0.113.7", 0).__enter__()
    with pytest.raises(urllib.error.URLError):
        scrape(address)


# From the shell


@pytest.mark.slow
def test_top_and_its_metrics_show_a_real_search_and_then_its_kill(tmp_path: Path) -> None:
    write_small_space(tmp_path)
    words = ["search", "--dataset", "digits", "--space", "small", "--trials", "99", "--workers", "1", *SMALL]
    with (tmp_path / "out.txt").open("w") as output:
        search = start(*words, cwd=tmp_path, output=output)
    server = start("top", "--prometheus", "0", cwd=tmp_path)
    try:
        assert server.stdout
        address = re.findall(r"http://127\.0\.0\.1:\d+/metrics", server.stdout.readline())[0]
        wait_for(lambda: "mloptimizer_trial_running_seconds" in scrape(address))
        assert scrape(address)["mloptimizer_search_running"].samples[0].value == 1
        shown = run("top", "--once", cwd=tmp_path).stdout
        assert re.search(r"digits +\d+ of 99 explored", shown)
        machine = json.loads((tmp_path / "metrics_data/digits/study.json").read_text())["machine"]
        assert (machine["host"], machine["tensorflow"] is not None) == (host_name(), True)
        search.send_signal(signal.SIGKILL)
        search.wait(60)
        assert scrape(address)["mloptimizer_search_running"].samples[0].value == 0
        assert "its process is gone" in run("top", "--once", cwd=tmp_path).stdout
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60)[1] == ""
        assert server.returncode == 0
    finally:
        search.kill()
        server.kill()


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_q_or_ctrl_c_ends_the_live_view_in_a_terminal(tmp_path: Path, key: bytes) -> None:
    import os
    import pty

    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "mloptimizer", "top", "--seconds", "0.5", "--workspace", str(tmp_path)]
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True) as process:
        shown = b""
        while b"No search is running" not in shown:
            shown += os.read(terminal, 65536)
        os.write(terminal, key)
        if key != b"q":  # not the process's controlling terminal: it sends no signal for a key
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(inside)
    os.close(terminal)


def test_once_and_prometheus_do_not_go_together(tmp_path: Path) -> None:
    done = run("top", "--once", "--prometheus", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
