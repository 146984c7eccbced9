"""Writes and reads checkpoint files: whole, compressed, and checked to the last byte.

A file is one line of JSON, padded with spaces, followed by the bytes of all arrays, compressed by zstd. The line holds
the format, the epoch, the identity of the training, the versions that wrote it, the plain values, type and shape of
each array, and the checksums of itself and of the arrays. Nothing is unpacked before they match, and nothing is
pickled. A finished file is renamed into place, so a kill leaves no half-written one.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import keras
import numpy as np
import tensorflow as tf
import zstandard

import mloptimizer
from mloptimizer.core.files import whole_file
from mloptimizer.core.words import in_a_line

_FORMAT = 1
COMPRESSION_LEVEL = 1  # weights hardly get smaller at higher ones
LONGEST_HEADER = 2**26  # bytes
LARGEST = 2**34  # bytes of the arrays, by default
PartState = tuple[Mapping[str, Any], Sequence[Any]]
"""What a checkpoint keeps of a part of the training: plain JSON values, and arrays that will not change."""

_FIELDS = {"format": int, "epoch": int, "identity": dict, "values": dict, "arrays": dict, "size": int, "sha256": str}
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, OverflowError),
    zstandard.ZstdError,
)
_UNKNOWN = "0" * 64  # placeholder of a checksum


class DamagedCheckpoint(Exception):  # noqa: N818  (no error: the one before serves)
    """The file is not a whole checkpoint; the text says why: 'it …'."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch: plain JSON values and arrays of each part."""

    epoch: int  # how many are done
    identity: Mapping[str, Any]  # what a training must share with it to resume from it
    values: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, Sequence[np.ndarray]]


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return the file of the checkpoint after this many epochs."""
    return folder / f"epoch_{epoch:05d}.ckpt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint files, newest first; none if the folder is missing or cannot be read."""
    try:
        return sorted((path for path in folder.iterdir() if path.match("epoch_?????.ckpt")), reverse=True)
    except OSError:
        return []


def keep_only(folder: Path, kept: Sequence[Path]) -> None:
    """Remove everything else from the folder, as far as possible: older checkpoints, and leftovers of a kill."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if path not in kept]:
            with contextlib.suppress(OSError):
                path.unlink()


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the whole file to the disk, or leave what was there.

    Raises:
        UsageError, RunError, OSError: the folder cannot be written, the disk is full or failed.
    """
    header = {
        "format": _FORMAT,
        "epoch": checkpoint.epoch,
        "identity": checkpoint.identity,
        "versions": {"mloptimizer": mloptimizer.__version__, "keras": keras.__version__, "tensorflow": tf.__version__},
        "values": checkpoint.values,
        "arrays": {
            name: [[item.dtype.name, item.shape] for item in found] for name, found in checkpoint.arrays.items()
        },
    }
    length = len(_seal({**header, "size": 2**62, "sha256": _UNKNOWN})) + 1
    with whole_file(path) as file:
        file.write(b" " * length)  # room for the line, which is known last
        target = _Checked(file)
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        with compressor.stream_writer(cast(BinaryIO, target), closefd=False) as stream:
            for array in itertools.chain.from_iterable(checkpoint.arrays.values()):
                stream.write(_bytes_of(np.ascontiguousarray(array)))
        file.seek(0)
        sealed = _seal({**header, "size": target.size, "sha256": target.sha256.hexdigest()})
        file.write(sealed.ljust(length - 1) + b"\n")
    with contextlib.suppress(OSError):  # the folder's entry too, if the system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_checkpoint(path: Path, most_bytes: int = LARGEST) -> Checkpoint:
    """Return the contents of the file.

    Args:
        most_bytes: of its arrays; a file that states more is not unpacked.

    Raises:
        DamagedCheckpoint: it is missing, cut off, changed, too large, or of another format.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            if path != checkpoint_path(path.parent, header["epoch"]):
                raise DamagedCheckpoint(f"its first line is of epoch {header['epoch']}")
            _check_payload(file, header)
            kinds = _read_kinds(header["arrays"], most_bytes)
            stream = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
            arrays = {name: [_read_array(stream, *kind) for kind in items] for name, items in kinds.items()}
        return Checkpoint(header["epoch"], header["identity"], header["values"], arrays)
    except _DAMAGE as error:
        raise DamagedCheckpoint(f"it cannot be read ({type(error).__name__}: {in_a_line(error)})") from error


class _Checked:
    """A file that counts the bytes written to it and computes their checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._file = file

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return self._file.write(data)


def _seal(header: Mapping[str, Any]) -> bytes:
    """Return the line, without its end, with the checksum of the header in it."""
    return json.dumps({**header, "header_sha256": _checksum(header)}).encode()


def _checksum(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _read_header(file: BinaryIO) -> dict[str, Any]:
    line = file.readline(LONGEST_HEADER)
    if not line.endswith(b"\n"):
        raise DamagedCheckpoint("its first line is cut off")
    header = json.loads(line)
    if not isinstance(header, dict) or header.pop("header_sha256", None) != _checksum(header):
        raise DamagedCheckpoint("the checksum of its first line is wrong")
    if header.get("format") != _FORMAT:
        raise DamagedCheckpoint(f"its format is {header.get('format')}, not {_FORMAT}")
    for name, kind in _FIELDS.items():
        if not isinstance(header.get(name), kind):
            raise DamagedCheckpoint(f"its {name} is a {type(header.get(name)).__name__}")
    if not all(isinstance(values, dict) for values in header["values"].values()):
        raise DamagedCheckpoint("the values of a part have no names")
    return header


_Kind = tuple[np.dtype, tuple[int, ...]]


def _read_kinds(stated: Mapping[str, Any], most_bytes: int) -> dict[str, list[_Kind]]:
    """Return type and shape of every array, after a check of the memory that they need."""
    kinds = {name: [(np.dtype(str(dtype)), tuple(shape)) for dtype, shape in items] for name, items in stated.items()}
    every = [kind for items in kinds.values() for kind in items]
    if any(dtype.hasobject or not all(type(side) is int and side >= 0 for side in shape) for dtype, shape in every):
        raise DamagedCheckpoint("it states an array that cannot be")
    size = sum(dtype.itemsize * math.prod(shape) for dtype, shape in every)
    if size > most_bytes:
        raise DamagedCheckpoint(f"its arrays have {size} bytes, and those of this training {most_bytes} at most")
    return kinds


def _check_payload(file: BufferedReader, header: Mapping[str, Any]) -> None:
    start, sha256 = file.tell(), hashlib.file_digest(file, "sha256").hexdigest()
    if (size := file.tell() - start) != header["size"]:
        raise DamagedCheckpoint(f"it is cut off or too long: {size} compressed bytes, not {header['size']}")
    if sha256 != header["sha256"]:
        raise DamagedCheckpoint("its checksum is wrong")
    file.seek(start)


def _read_array(stream: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, dtype)
    rest = _bytes_of(array)
    while len(rest):
        if not (count := stream.readinto(rest)):
            raise EOFError("there are fewer bytes than its arrays need")
        rest = rest[count:]
    return array


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the memory of the contiguous array without a copy; NumPy's own view rejects some of TensorFlow's types."""
    return array.reshape(-1).view(np.uint8).data


def is_like(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the plain values have the names and the kinds of those wanted."""
    return found.keys() == wanted.keys() and all(_fits(found[name], wanted[name]) for name in wanted)


def _fits(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):  # metrics by name, or by epoch and name, which may be others
        return isinstance(found, Mapping) and (_are_numbers(found) or all(map(_are_numbers, found.values())))
    return isinstance(found, (int, float)) or (found is None and wanted is None)


def _are_numbers(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        value is None or isinstance(value, (int, float)) for value in found.values()
    )
