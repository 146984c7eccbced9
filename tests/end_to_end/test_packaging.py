"""The wheel, the sdist and the editable install bring the command and the search spaces anywhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ["cnn", "inception", "resnet"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that are in the repository: building leaves nothing in the real one."""
    copy = tmp_path_factory.mktemp("project") / "mloptimizer"
    skip = shutil.ignore_patterns(".git", "*.egg-info", "build", "dist", "__pycache__", ".*cache", ".venv", "venv")
    shutil.copytree(ROOT, copy, ignore=skip)
    return copy


@pytest.fixture(scope="module")
def packages(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(project)], check=True, capture_output=True
    )
    return folder


def make_environment(folder: Path) -> Path:
    """Return the Python of a new environment that has our dependencies and our pip, but not our own package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # An added folder's own .pth files are not read, so an editable install of the outer environment stays out.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *words: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable", "strict editable"])
def test_an_installed_package_has_its_command_and_its_spaces(
    kind: str, project: Path, packages: Path, tmp_path: Path
) -> None:
    python = make_environment(tmp_path / "venv")
    source = {
        "wheel": [str(next(packages.glob("*.whl")))],
        "sdist": [str(next(packages.glob("*.tar.gz")))],
        "editable": ["-e", str(project)],
        "strict editable": ["-e", str(project), "--config-settings", "editable_mode=strict"],
    }[kind]
    outside = tmp_path / "outside"
    outside.mkdir()
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *source, cwd=outside)
    code = (
        "import mloptimizer, pathlib, mloptimizer.spaces.space_files as s; print(mloptimizer.__file__);"
        "print(*[space.name for space in s.read_spaces([], pathlib.Path('none'))])"
    )
    place, names = run(python, "-c", code, cwd=outside).splitlines()
    assert names.split() == NAMES
    assert not Path(place).is_relative_to(ROOT)
    command = str(python.with_name("mloptimizer"))
    assert (
        "resnet" in subprocess.run([command, "spaces"], cwd=outside, check=True, capture_output=True, text=True).stdout
    )
    run(python, "-m", "mloptimizer", "init", "workspace", cwd=outside)
    assert sorted(path.stem for path in (outside / "workspace" / "search_spaces").iterdir()) == NAMES


def test_the_wheel_holds_the_package_and_nothing_else(packages: Path) -> None:
    with zipfile.ZipFile(next(packages.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mloptimizer"}
    assert not [name for name in names if re.search(r"(^|/)(tests?|benchmarks)(/|_)", name)]
    assert "mloptimizer/py.typed" in names
