from pathlib import Path

import psutil

from mloptimizer.hardware.read.main_memory import count_oom_kills, memory_percent


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_memory_in_use_is_a_share_of_all() -> None:
    assert 0 < memory_percent() < 100
    assert abs(memory_percent() - psutil.virtual_memory().percent) < 20


def test_the_kernels_kills_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "proc/vmstat", "nr_free_pages 7\noom_kill 3\ndrop_slab 0\n")
    assert count_oom_kills(tmp_path) == 3


def test_those_of_the_processs_own_control_group_count_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/old\n0::/jobs/17\n")
    write(tmp_path, "sys/fs/cgroup/jobs/17/memory.events", "low 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 1\n")
    assert count_oom_kills(tmp_path) == 2


def test_a_container_sees_its_group_at_the_root(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory.events", "oom_kill 5\n")
    assert count_oom_kills(tmp_path) == 5


def test_what_a_system_does_not_report_counts_as_nothing(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path) == 0
    write(tmp_path, "proc/vmstat", "oom_kill many\n")
    assert count_oom_kills(tmp_path) == 0
    assert count_oom_kills() >= 0
