"""A node is silently cut off from the driver and keeps training, between two network namespaces of this machine."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.engines.ray_cluster import ENVIRONMENT

ROOT = Path(__file__).parents[2]
HEAD, NODE, PORT = "10.213.77.1", "10.213.77.2", "6399"
DRIVER = """
import subprocess, sys, time
from mloptimizer.engines.ray.agents import Agents
from mloptimizer.engines.ray.cluster import connected
from mloptimizer.engines.ray.ray_engine import RayEngine
from mloptimizer.engines.ray.shapes import Need
from mloptimizer.core.nouns import TrialResult
from tests.engines.contract import bare_plan
from tests.engines.ray_cluster import perform, pid_of, wait_for, wait_for_slots
address, folder, far = sys.argv[1:]
def link(state):
    subprocess.run(["ip", "-n", far, "link", "set", "far", state], check=True)
with connected(address):
    agents = Agents(perform, "forkserver", (), lambda note: None, 10)
    agents.aim(Need(1, 1.0, 0), 1)
    engine = RayEngine(agents)
    engine.start(bare_plan(0, {"act": "wait"}, folder), wait_for_slots(engine, 1)[0])
    print(pid_of(engine), flush=True)
    link("down")
    events = wait_for(engine, lambda event: isinstance(event, TrialResult))
    print(events[-1].failure.kind, flush=True)
    sys.stdin.readline()
    link("up")
    until, late = time.monotonic() + 5, []
    while time.monotonic() < until:
        engine.idle_slots()
        late += engine.wait(0.5)
    print(len(events), late, flush=True)
"""


def _why_not() -> str:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        return "needs root on Linux and the program `ip`, to make network namespaces"
    name = f"mlo-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return "" if done.returncode == 0 else f"no network namespace can be made here: {done.stderr.strip()}"


_reason = _why_not()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(_reason), reason=_reason or "it can run")]


@dataclass
class Places:
    near: str  # namespaces: of the head and the driver, and of the node
    far: str
    environment: dict[str, str]

    def run(self, where: str, *words: str) -> None:
        subprocess.run(self.command(where, *words), env=self.environment, check=True, capture_output=True, cwd=ROOT)

    def command(self, where: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", where, *words]


@pytest.fixture
def places() -> Iterator[Places]:
    """Two namespaces with a wire between them, a head in one and a node with a GPU in the other."""
    folder = Path(tempfile.mkdtemp(prefix="r"))
    near, far = f"mlo-near-{os.getpid()}", f"mlo-far-{os.getpid()}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": str(folder), "MLOPTIMIZER_CACHE": str(folder)}
    places = Places(near, far, {**kept, **ENVIRONMENT, **own})
    ray = str(Path(sys.executable).with_name("ray"))
    try:
        for name in (near, far):
            subprocess.run(["ip", "netns", "add", name], check=True)
        wire = ["ip", "-n", near, "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", far]
        subprocess.run(wire, check=True)
        for name, end, address in ((near, "near", HEAD), (far, "far", NODE)):
            subprocess.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", end], check=True)
            for device in (end, "lo"):
                subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        common = ["--num-cpus=1", "--object-store-memory=100000000"]
        head = [f"--node-ip-address={HEAD}", f"--port={PORT}", "--include-dashboard=false", "--num-gpus=0"]
        places.run(near, ray, "start", "--head", *head, *common)
        places.run(far, ray, "start", f"--address={HEAD}:{PORT}", f"--node-ip-address={NODE}", "--num-gpus=1", *common)
        yield places
    finally:
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("RAY_TMPDIR") == str(folder):
                process.kill()
        for name in (near, far):
            subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_that_is_cut_off_keeps_training_and_its_trial_has_one_result(places: Places, tmp_path: Path) -> None:
    words = [sys.executable, "-c", DRIVER, f"{HEAD}:{PORT}", str(tmp_path), places.far]
    command = places.command(places.near, *words)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=places.environment, cwd=ROOT) as driver:
        assert driver.stdin and driver.stdout
        pid = int(driver.stdout.readline())
        assert driver.stdout.readline().strip() == "lost_worker"
        is_training = psutil.pid_exists(pid)
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.stdout.readline().strip() == "1 []"
        assert is_training  # two attempts could have been training at once: only the fence keeps them apart
