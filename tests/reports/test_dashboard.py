"""The dashboard as a person meets it: a process that serves pages over HTTP."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.reports.dashboard import serve_dashboard
from mloptimizer.study.storage import open_storage

_SERVE = """
import sys
from pathlib import Path
from mloptimizer.reports.dashboard import serve_dashboard
from mloptimizer.study.storage import open_storage
serve_dashboard(open_storage("", Path(sys.argv[1])), "127.0.0.1", 0, lambda url: print(url, flush=True))
print("ended", flush=True)
"""
_WRITE = """
import sys
from pathlib import Path
import optuna
from mloptimizer.study.storage import open_storage
study = optuna.load_study(study_name="digits", storage=open_storage("", Path(sys.argv[1])))
study.optimize(lambda trial: trial.suggest_float("learning_rate", 0, 1), n_trials=5)
"""
Server = tuple[str, "subprocess.Popen[str]"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Returns a journal with the study 'digits', of one trial."""
    path = tmp_path / "studies.journal"
    study = optuna.create_study(study_name="digits", storage=open_storage("", path), direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("learning_rate", 0, 1), n_trials=1)
    return path


@pytest.fixture
def server(journal: Path) -> Iterator[Server]:
    """Returns the address and the process of a dashboard on the journal."""
    command = [sys.executable, "-c", _SERVE, str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else "", process
        finally:
            process.kill()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def wait_for(met: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if met():
            return True
    return False


def test_it_lists_the_study_and_its_trials(server: Server) -> None:
    url, _ = server
    studies = get(f"{url}api/studies")["study_summaries"]
    assert [study["study_name"] for study in studies] == ["digits"]
    trials = get(f"{url}api/studies/{studies[0]['study_id']}")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete"]


@pytest.mark.slow
def test_trials_that_another_process_adds_appear(server: Server, journal: Path) -> None:
    url, _ = server
    assert len(get(f"{url}api/studies/0")["trials"]) == 1
    subprocess.run([sys.executable, "-c", _WRITE, str(journal)], check=True, capture_output=True)
    assert wait_for(lambda: len(get(f"{url}api/studies/0")["trials"]) == 6)


def test_its_page_needs_nothing_from_another_host(server: Server) -> None:
    url, _ = server
    with urllib.request.urlopen(f"{url}dashboard", timeout=30) as answer:
        page = answer.read().decode()
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert 'src="/static/bundle.js"' in page
    with urllib.request.urlopen(f"{url}static/bundle.js", timeout=30) as answer:
        assert len(answer.read()) > 1_000_000


@pytest.mark.slow
def test_an_idle_connection_blocks_nobody(server: Server) -> None:
    url, _ = server
    with socket.create_connection(("127.0.0.1", int(url.rstrip("/").rsplit(":", 1)[1]))):
        assert get(f"{url}api/studies")["study_summaries"]


@pytest.mark.slow
def test_ctrl_c_ends_it_quietly(server: Server) -> None:
    url, process = server
    get(f"{url}api/studies")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "ended\n", "")


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1, port {port}: "):
            serve_dashboard(None, "127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("203.0.113.7", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_impossible_address_is_one_line(host: str, port: int) -> None:
    with pytest.raises(UsageError, match=rf"cannot listen on {host}, port {port}: .+ Choose another with --port N"):
        serve_dashboard(None, host, port)
