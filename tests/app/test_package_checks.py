"""Python and packages against what the metadata of mloptimizer requires."""

from email.message import Message

import pytest

from mloptimizer.app.package_checks import check_packages, check_python, read_metadata

REQUIRED = {
    "tensorflow": ">=2.21,<2.22",
    "keras": ">=3.15,<3.16",
    "winonly": '>=1; sys_platform == "win32"',
    "ray": '>=2.60,<2.61; extra == "ray"',
    "torch": '>=2.4; extra == "gp"',
    "pytest": '>=8.3; extra == "test"',
}
INSTALLED = {"tensorflow": "2.21.1", "keras": "3.15.0", "ray": "2.60.0", "pytest": "7.0"}


@pytest.fixture
def about() -> Message:
    metadata = Message()
    metadata["Requires-Python"] = ">=3.11,<3.14"
    for name, rest in REQUIRED.items():
        metadata["Requires-Dist"] = name + rest
    for extra in ("ray", "gp", "test"):
        metadata["Provides-Extra"] = extra
    return metadata


@pytest.mark.parametrize(
    ("version", "ok"), [("3.10.9", False), ("3.11.0", True), ("3.13.0rc1", True), ("3.13.9", True), ("3.14.0", False)]
)
def test_only_pythons_that_the_metadata_admits_are_right(version: str, ok: bool, about: Message) -> None:
    assert check_python(version, about).ok is ok


def test_packages_within_their_bounds_are_right_and_other_systems_extras_and_tests_need_none(about: Message) -> None:
    check = check_packages(about, INSTALLED.get)
    assert (check.ok, check.found) == (True, "tensorflow 2.21.1, keras 3.15.0, 1 other")


@pytest.mark.parametrize(
    ("package", "version", "told"),
    [
        ("keras", None, "keras is missing"),
        ("keras", "3.14.2", "keras 3.14.2 is not <3.16,>=3.15"),
        ("tensorflow", "2.22.0", "tensorflow 2.22.0 is not <2.22,>=2.21"),
        ("ray", "2.61.0", "ray 2.61.0 is not <2.61,>=2.60"),
        ("torch", "2.0", "torch 2.0 is not >=2.4"),
    ],
)
def test_a_package_that_is_missing_too_old_or_too_new_is_told(
    package: str, version: str | None, told: str, about: Message
) -> None:
    check = check_packages(about, {**INSTALLED, package: version}.get)
    assert check.ok is False
    assert check.found.partition("; ")[2] == told


def test_what_is_installed_here_fits() -> None:
    assert check_packages(read_metadata()).ok is True


def test_where_mloptimizer_is_not_installed_nothing_is_held_against_the_packages() -> None:
    assert check_packages(Message()).ok is None
    assert check_python("3.15.0", Message()).ok is True
