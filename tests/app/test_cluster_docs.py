"""The examples for clusters, as far as they can be checked without one, and the words by hand, which are run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import psutil
import pytest
import ray
import yaml
from ray.scripts.scripts import start
from ray.util import get_node_ip_address

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "clusters"
OPTIONS = {option for parameter in start.params if isinstance(parameter, click.Option) for option in parameter.opts}


def starts(text: str) -> list[str]:
    """Return the options of every `ray start` in the text."""
    joined = text.replace("\\\n", " ")
    commands = re.findall(r"ray start ([^&|'\n]*)", joined)
    return [option for command in commands for option in re.findall(r"--[a-z-]+", command)]


@pytest.mark.parametrize("path", [DOCS / "clusters.md", EXAMPLES / "slurm.sbatch", EXAMPLES / "cloud.yaml"])
def test_every_option_of_ray_start_exists(path: Path) -> None:
    found = starts(path.read_text())
    assert found
    assert set(found) <= OPTIONS


def test_the_batch_script_is_valid_bash_and_asks_slurm_first() -> None:
    script = EXAMPLES / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text().splitlines()
    code = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [index for index, line in enumerate(lines) if line.startswith("#SBATCH --")]
    assert directives and max(directives) < code  # Slurm reads none behind the first command


def kuberay() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / "kuberay.yaml").read_text()))


def test_the_manifest_has_a_token_and_options_that_exist() -> None:
    cluster = kuberay()[0]["spec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {f"--{name}" for group in groups for name in group["rayStartParams"]} <= OPTIONS
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_manifests_volume_is_claimed() -> None:
    cluster, claim = kuberay()
    (volume,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_cloud_file_is_one_that_ray_takes() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((EXAMPLES / "cloud.yaml").read_text())
    assert config["head_node_type"] in config["available_node_types"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    jsonschema.validate(config, schema)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket; what runs with it as its home is ended."""
    folder = Path(tempfile.mkdtemp(prefix="r"))
    yield folder
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("HOME") == str(folder):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
def test_the_words_by_hand_start_a_cluster_that_the_doctor_finds_sound(short_folder: Path) -> None:
    section = (DOCS / "clusters.md").read_text().split("## Several machines by hand")[1].split("Then on the first")[0]
    words = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    doctor = f"{sys.executable} -m mloptimizer cluster doctor --address 10.0.0.1:6379"
    script = "\n".join(["set -e", *words, doctor])
    for told, here in (("10.0.0.1", get_node_ip_address()), ("6379", str(20000 + os.getpid() % 20000))):
        script = script.replace(told, here)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"HOME": str(short_folder), "RAY_TMPDIR": str(short_folder), "COLUMNS": "200"}
    path = {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(["bash", "-c", script], env={**kept, **own, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 alive" in done.stdout
