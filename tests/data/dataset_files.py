"""Writes small data sets in each of the forms in which people have the real ones."""

import gzip
import io
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.data.catalog import CATALOG, CIFAR10_BATCHES, CIFAR100_BATCHES
from mloptimizer.data.library import prepare_dataset

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Data:
    """Images of shape (n, height, width, channels) and labels of shape (n,)."""

    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int32]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int32]


def make_data(name: str, per_class: int = 5, seed: int = 0) -> Data:
    """Return noise: five images of every class to train with, one to test with."""
    dataset, random = CATALOG[name], np.random.default_rng(seed)

    def part(count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        labels = np.tile(np.arange(dataset.classes, dtype=np.int32), count)
        return random.integers(0, 256, (len(labels), *dataset.input_shape), dtype=np.uint8), labels

    return Data(*part(per_class), *part(1))


def use_folders(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Keep Keras's folder and the cache inside `folder`, shut off the net, and return Keras's folder of data sets."""
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(folder / "cache"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens on it
        use_proxy(monkeypatch, unused.getsockname()[1])
    datasets = folder / "keras" / "datasets"
    datasets.mkdir(parents=True)
    return datasets


def use_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file below the folder, hidden ones too."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


# --- CIFAR


def cifar_batches(name: str, data: Data) -> dict[str, dict[bytes, Any]]:
    """Return the content of each file of the official archive."""
    files = CIFAR10_BATCHES if name == "cifar10" else CIFAR100_BATCHES
    key = CATALOG[name].label_key.encode()
    places = [*np.array_split(np.arange(len(data.y_train)), len(files) - 1), np.arange(len(data.y_test))]
    batches = {}
    for file, place in zip(files, places, strict=True):
        x, y = (data.x_test, data.y_test) if file == files[-1] else (data.x_train, data.y_train)
        rows = x[place].transpose(0, 3, 1, 2).reshape(len(place), -1)
        batches[file] = {b"batch_label": file.encode(), key: y[place].tolist(), b"data": rows, b"filenames": [b"a.png"]}
    return batches


def pickle_of_python_2(batch: dict[bytes, Any]) -> bytes:
    """Return the bytes that Python 2 wrote for such a batch, as in the official archive."""
    return b"\x80\x02}(" + b"".join(_python_2(key) + _python_2(value) for key, value in batch.items()) + b"u."


def _python_2(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"K" + bytes([value])
    if isinstance(value, list):
        return b"](" + b"".join(map(_python_2, value)) + b"e"
    rows, columns = value.shape
    constructor = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _python_2(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + _python_2(b"u1") + b"K\x00K\x01\x87R(K\x03" + _python_2(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    return constructor + b"(K\x01" + shape + dtype + b"\x89" + _python_2(value.tobytes()) + b"tb"


def write_cifar_folder(
    folder: Path, name: str, data: Data, dump: Callable[[dict[bytes, Any]], bytes] = pickle_of_python_2
) -> None:
    folder.mkdir(parents=True)
    for file, batch in cifar_batches(name, data).items():
        (folder / file).write_bytes(dump(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"num_vis": 3072}))


def write_cifar_archive(path: Path, name: str, data: Data) -> None:
    folder = "cifar-10-batches-py" if name == "cifar10" else "cifar-100-python"
    with tarfile.open(path, "w:gz") as archive:
        add_member(archive, f"{folder}/readme.html", b"<html>")
        for file, batch in cifar_batches(name, data).items():
            add_member(archive, f"{folder}/{file}", pickle_of_python_2(batch))


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


# --- npz and idx


def write_npz(path: Path, data: Data, column_labels: bool = False) -> None:
    x_train, x_test = (x[..., 0] if x.shape[-1] == 1 else x for x in (data.x_train, data.x_test))
    shape = (-1, 1) if column_labels else (-1,)
    np.savez_compressed(
        path,
        x_train=x_train,
        y_train=data.y_train.reshape(shape).astype(np.uint8),
        x_test=x_test,
        y_test=data.y_test.reshape(shape).astype(np.uint8),
    )


def idx_bytes(array: npt.NDArray[Any]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, data: Data, ending: str = ".gz") -> None:
    folder.mkdir(parents=True)
    arrays: tuple[npt.NDArray[Any], ...] = (data.x_train[..., 0], data.y_train, data.x_test[..., 0], data.y_test)
    for file, array in zip(IDX_FILES, arrays, strict=True):
        content = idx_bytes(array)
        (folder / f"{file}{ending}").write_bytes(gzip.compress(content) if ending else content)


Writer = Callable[[Path, Data], None]
FORMS: dict[tuple[str, str], Writer] = {
    ("mnist", "mnist.npz"): write_npz,
    ("mnist", "mnist"): write_idx,
    ("mnist", "MNIST/raw"): lambda path, data: write_idx(path, data, ending=""),
    ("fashion_mnist", "fashion-mnist"): write_idx,
    ("fashion_mnist", "fashion_mnist.npz"): write_npz,
    ("cifar10", "cifar-10-batches-py"): lambda path, data: write_cifar_folder(path, "cifar10", data),
    ("cifar10", "cifar-10-batches-py-target/cifar-10-batches-py"): lambda path, data: write_cifar_folder(
        path, "cifar10", data
    ),
    ("cifar10", "cifar-10-batches-py-target_archive"): lambda path, data: write_cifar_archive(path, "cifar10", data),
    ("cifar10", "cifar-10-python.tar.gz"): lambda path, data: write_cifar_archive(path, "cifar10", data),
    ("cifar10", "cifar-10-batches-py.tar.gz"): lambda path, data: write_cifar_archive(path, "cifar10", data),
    ("cifar10", "cifar10.npz"): lambda path, data: write_npz(path, data, column_labels=True),
    ("cifar100", "cifar-100-python"): lambda path, data: write_cifar_folder(path, "cifar100", data),
    ("cifar100", "cifar-100-python-target/cifar-100-python"): lambda path, data: write_cifar_folder(
        path, "cifar100", data
    ),
    ("cifar100", "cifar-100-python-target_archive"): lambda path, data: write_cifar_archive(path, "cifar100", data),
    ("cifar100", "cifar-100-python.tar.gz"): lambda path, data: write_cifar_archive(path, "cifar100", data),
    ("cifar100", "cifar100.npz"): write_npz,
}
"""How to write each form: by data set and by path below Keras's folder."""


def prepare(name: str = "mnist", seed: int = 0, limit: int = 0) -> DatasetInfo:
    return prepare_dataset(name, 0.2, seed, limit)


def run_python(code: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)
