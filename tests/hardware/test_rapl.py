"""The energy of the processors, in a folder as Linux makes it."""

from pathlib import Path

from mloptimizer.hardware.read.rapl import PackageEnergy

RANGE_UJ = 262_143_328_850


def set_domain(root: Path, domain: str, name: str, energy_uj: int | str) -> None:
    folder = root / domain
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", RANGE_UJ)):
        (folder / file).write_text(f"{text}\n")


def test_the_energy_is_that_of_all_packages_and_no_part_of_them_counts_twice(tmp_path: Path) -> None:
    domains = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core"}
    domains |= {"intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
    for domain, name in domains.items():
        set_domain(tmp_path, domain, name, 5_000_000)
    energy = PackageEnergy(tmp_path)
    assert energy.read() == 0.0
    for domain, name in domains.items():
        set_domain(tmp_path, domain, name, 7_500_000)
    assert energy.read() == 2 * 2.5


def test_a_counter_that_reaches_its_range_restarts(tmp_path: Path) -> None:
    set_domain(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 3_000_000)
    energy = PackageEnergy(tmp_path)
    set_domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    assert energy.read() == 4.0


def test_energy_used_while_the_counter_was_unreadable_is_added_later(tmp_path: Path) -> None:
    set_domain(tmp_path, "intel-rapl:0", "package-0-die-0", 0)
    energy = PackageEnergy(tmp_path)
    set_domain(tmp_path, "intel-rapl:0", "package-0-die-0", "")
    assert energy.read() is None
    set_domain(tmp_path, "intel-rapl:0", "package-0-die-0", 6_000_000)
    assert energy.read() == 6.0


def test_a_machine_without_such_counters_reports_no_energy(tmp_path: Path) -> None:
    assert PackageEnergy(tmp_path / "none").read() is None
    assert PackageEnergy(tmp_path).read() is None
