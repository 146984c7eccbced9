"""A download is verified, shared with Keras, and replaces nothing; without a net one line says what to do."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.data.catalog import CATALOG, Dataset, Download
from mloptimizer.data.library import prepare_dataset
from mloptimizer.data.sources import TEMPORARY_PREFIX, download, keras_folder
from tests.data.dataset_files import IDX_FILES, make_data, snapshot, use_folders, use_proxy, write_idx


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_folders(monkeypatch, tmp_path)


class _QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Serve the folder `site` and return its address."""
    (tmp_path / "site").mkdir()
    serve = functools.partial(_QuietServer, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def offer(site: str, tmp_path: Path, content: bytes, sha256: str = "") -> Dataset:
    """Return MNIST as if it came from the local site."""
    (tmp_path / "site" / "mnist.npz").write_bytes(content)
    item = Download(f"{site}/mnist.npz", sha256 or hashlib.sha256(content).hexdigest(), "mnist.npz")
    return dataclasses.replace(CATALOG["mnist"], downloads=(item,))


def test_a_download_is_where_keras_looks_for_it(site: str, tmp_path: Path, datasets: Path) -> None:
    download(offer(site, tmp_path, b"images"))
    assert {path.name: path.read_bytes() for path in datasets.iterdir()} == {"mnist.npz": b"images"}


def test_a_download_is_readable_for_others(site: str, tmp_path: Path, datasets: Path) -> None:
    download(offer(site, tmp_path, b"images"))
    assert (datasets / "mnist.npz").stat().st_mode & 0o777 == 0o644


def test_a_download_with_a_wrong_hash_is_refused_and_leaves_nothing(site: str, tmp_path: Path, datasets: Path) -> None:
    with pytest.raises(RunError, match=r"wrong sha256.*put mnist\.npz"):
        download(offer(site, tmp_path, b"images", sha256="0" * 64))
    assert list(datasets.iterdir()) == []


def test_a_file_that_the_site_does_not_have_is_reported(site: str, tmp_path: Path, datasets: Path) -> None:
    dataset = offer(site, tmp_path, b"images")
    (tmp_path / "site" / "mnist.npz").unlink()
    with pytest.raises(RunError, match="cannot be reached"):
        download(dataset)
    assert list(datasets.iterdir()) == []


def test_leftovers_of_a_killed_download_are_removed_after_a_day(site: str, tmp_path: Path, datasets: Path) -> None:
    old, young = (datasets / f"{TEMPORARY_PREFIX}{age}" for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    download(offer(site, tmp_path, b"images"))
    assert not old.exists() and young.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_a_file_with_the_name_of_a_download_is_never_replaced(
    kind: str, site: str, tmp_path: Path, datasets: Path
) -> None:
    target = datasets / "mnist.npz"
    if kind == "file":
        target.write_bytes(b"mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("gone")
    before = os.lstat(target)
    download(offer(site, tmp_path, b"images"))
    assert os.lstat(target) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot be written .*KERAS_HOME"):
        download(CATALOG["mnist"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", ["mnist.npz"]),
        ("fashion_mnist", ["fashion-mnist", "fashion_mnist.npz"]),
        ("cifar10", ["cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar10.npz"]),
        ("cifar100", ["cifar-100-python.tar.gz", "cifar-100-python", "cifar100.npz"]),
    ],
)
def test_without_a_network_one_line_says_what_to_put_where(
    name: str, files: list[str], datasets: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError) as caught:
        prepare_dataset(name, 0.2, 0, 0)
    line = str(caught.value)
    assert "\n" not in line and f" into {datasets}" in line and all(file in line for file in files)
    assert snapshot(tmp_path) == {}


def test_a_download_that_was_interrupted_resumes_with_the_missing_files(datasets: Path) -> None:
    write_idx(datasets / "fashion-mnist", make_data("fashion_mnist"))
    (datasets / "fashion-mnist" / f"{IDX_FILES[3]}.gz").unlink()
    before = snapshot(datasets)
    with pytest.raises(RunError, match=f"{IDX_FILES[3]}.gz is not there"):
        prepare_dataset("fashion_mnist", 0.2, 0, 0)
    assert snapshot(datasets) == before


def test_half_a_folder_is_not_replaced_by_a_download(datasets: Path) -> None:
    (datasets / "cifar-10-batches-py").mkdir()
    (datasets / "cifar-10-batches-py" / "test_batch").write_bytes(b"")
    with pytest.raises(UsageError, match=r"data_batch_1: is missing.*remove the folder"):
        prepare_dataset("cifar10", 0.2, 0, 0)


@pytest.mark.parametrize(("home", "folder"), [("", ".keras/datasets"), ("~/k", "k/datasets")])
def test_keras_folder_is_where_keras_has_it(
    home: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", home)
    assert keras_folder() == tmp_path / folder


def test_the_addresses_and_hashes_are_those_of_keras() -> None:
    import importlib.util

    keras = importlib.util.find_spec("keras")
    assert keras is not None and keras.origin is not None
    for name in ("mnist", "cifar10", "cifar100"):
        text = (Path(keras.origin).parent / "src" / "datasets" / f"{name}.py").read_text()
        (item,) = CATALOG[name].downloads
        assert item.sha256 in text
        assert item.path.removesuffix("_archive") in text
        assert item.url.rpartition("/")[0] in text and item.url.rpartition("/")[2] in text


# --- a download that hangs


@pytest.fixture
def silent_proxy(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        use_proxy(monkeypatch, server.getsockname()[1])
        yield server


CALLER = """
import sys
from mloptimizer.data.library import prepare_dataset
from mloptimizer.core.errors import MloptimizerError
try:
    prepare_dataset("cifar10", 0.2, 0, 0)
except KeyboardInterrupt:
    print("interrupted")
except MloptimizerError as error:
    print(type(error).__name__, error)
"""


@contextlib.contextmanager
def hanging_caller(proxy: socket.socket) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Yield a process that prepares a data set, and its child, which waits for the proxy."""
    pipe = subprocess.PIPE
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stdout=pipe, stderr=pipe, text=True, process_group=0)
    try:
        with proxy.accept()[0]:
            (child,) = psutil.Process(caller.pid).children()
            yield caller, child
    finally:
        caller.kill()
        caller.wait()


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the caller", "at the terminal"])
def test_an_interrupt_ends_the_caller_and_its_child_at_once(
    send: Callable[[int, int], None], silent_proxy: socket.socket, tmp_path: Path
) -> None:
    with hanging_caller(silent_proxy) as (caller, child):
        send(caller.pid, signal.SIGINT)
        assert caller.communicate(timeout=20) == ("interrupted\n", "")
        assert not child.is_running()
    assert list((tmp_path / "keras" / "datasets").iterdir()) == []


@pytest.mark.slow
def test_a_child_that_is_killed_is_reported_in_one_line(silent_proxy: socket.socket) -> None:
    with hanging_caller(silent_proxy) as (caller, child):
        child.kill()
        answer, complaint = caller.communicate(timeout=20)
    assert answer.startswith("RunError --dataset cifar10: the process that decodes it was killed by signal 9")
    assert (answer.count("\n"), complaint) == (1, "")
