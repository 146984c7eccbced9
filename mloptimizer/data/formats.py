"""Reads the file formats in which people have image data sets.

Nothing is extracted, executed or written: pickles may name numpy's array constructors only, sizes are bounded, and
any damage to a file becomes one `UsageError` that names it.
"""

import contextlib
import gzip
import io
import pickle
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from mloptimizer.core.errors import UsageError
from mloptimizer.core.words import in_a_line
from mloptimizer.data.catalog import Dataset, FormKind
from mloptimizer.data.pickled_batches import load_arrays
from mloptimizer.data.split import split_indices

DecodedBatch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]  # images (n, height, width, channels), labels (n,)
Parts = tuple[list[DecodedBatch], list[DecodedBatch]]  # training, test
_Files = tuple[Path, ...]

_MAX_BYTES = 2**29  # of one decoded file; the largest real one, CIFAR-100's training batch, has 155 million
_MAX_MEMBERS = 1000
_DIGITS_TEST_SEED = 0
_DIGITS_TEST_FRACTION = 0.2

_DAMAGE = (
    *(EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError),
    *(BufferError, OSError, struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError, pickle.UnpicklingError),
    tokenize.TokenError,
)


def read_parts(kind: FormKind, files: _Files, dataset: Dataset) -> Parts:
    """Return the training and the test part, in the batches as stored; `files` are in their form's order.

    Raises UsageError: a file is missing, cannot be read, is damaged, or contains something else.
    """
    readers: dict[FormKind, Callable[[_Files, Dataset], Parts]] = {
        "digits": _read_digits,
        "cifar_batches": _read_cifar_batches,
        "cifar_archive": _read_cifar_archive,
        "npz": _read_npz,
        "idx": _read_idx,
    }
    return readers[kind](files, dataset)


@contextlib.contextmanager
def _reading(path: Path, dataset: Dataset) -> Iterator[None]:
    """Turn any error that a damaged file raises into one line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{path}: is missing, though files beside it exist. {_advice(path, dataset)}") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UsageError(f"{path}: cannot be read ({error.strerror}). Make it readable.") from error
        reason = in_a_line(error, 200) or type(error).__name__
        raise UsageError(f"{path}: is damaged or not {dataset.name} ({reason}). {_advice(path, dataset)}") from error


def _advice(path: Path, dataset: Dataset) -> str:
    if not dataset.downloads:
        return "Install scikit-learn again."
    alone = any(len(form.files) == 1 and path.name == form.files[0] for form in dataset.forms)
    return f"Put a good copy there, or remove {'it' if alone else f'the folder {path.parent}'} to have it downloaded."


def _check_batch(images: npt.NDArray[Any], labels: object, dataset: Dataset) -> DecodedBatch:
    """Return the batch with labels of shape (n,), if it is one of this data set."""
    classes = np.asarray(labels)
    if images.dtype != np.uint8:
        raise ValueError(f"the pixels are {images.dtype}, not uint8")
    if images.shape[1:] != dataset.input_shape:
        raise ValueError(f"the images have the shape {images.shape[1:]}, not {dataset.input_shape}")
    if classes.dtype.kind not in "iu" or classes.shape not in {(len(images),), (len(images), 1)}:
        raise ValueError(f"{len(images)} images have labels of shape {classes.shape}, type {classes.dtype}")
    if len(images) == 0:
        raise ValueError("it contains no images")
    if classes.min() < 0 or classes.max() >= dataset.classes:
        raise ValueError(f"a label is outside 0 to {dataset.classes - 1}")
    return images, classes.reshape(-1).astype(np.int32)


# --- scikit-learn's digits


def _read_digits(files: _Files, dataset: Dataset) -> Parts:
    with _reading(files[0], dataset), gzip.open(files[0], "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64, ndmin=2)
        if table.shape[1] != 65 or table[:, :-1].min() < 0 or table[:, :-1].max() > 16:
            raise ValueError("its lines do not have 64 pixels of 0 to 16 and a label")
        pixels = ((table[:, :-1] * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
        images, labels = _check_batch(pixels, table[:, -1], dataset)
    training, test = split_indices(labels, _DIGITS_TEST_FRACTION, _DIGITS_TEST_SEED)
    return [(images[training], labels[training])], [(images[test], labels[test])]


# --- CIFAR's pickled batches


def _read_batch(file: IO[bytes], dataset: Dataset) -> DecodedBatch:
    values = load_arrays(file)
    if not isinstance(values, dict):
        raise ValueError(f"it contains a {type(values).__name__}, not a dictionary")
    found = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in values.items()}
    rows = found["data"]
    height, width, channels = dataset.input_shape
    if type(rows) is not np.ndarray or rows.ndim != 2 or rows.shape[1] != height * width * channels:
        raise ValueError(f"its data is not an array of rows of {height * width * channels} pixels")
    images = rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return _check_batch(images, found[dataset.label_key], dataset)


def _read_cifar_batches(files: _Files, dataset: Dataset) -> Parts:
    batches = []
    for path in files:
        with _reading(path, dataset), path.open("rb") as file:
            _check_size(path.stat().st_size)
            batches.append(_read_batch(file, dataset))
    return batches[:-1], batches[-1:]


def _read_cifar_archive(files: _Files, dataset: Dataset) -> Parts:
    wanted = [PurePosixPath(path).name for path in dataset.forms[0].files]
    found: dict[str, DecodedBatch] = {}
    # The stream mode never seeks, so the archive is decompressed once; reading it to its end makes gzip check its sum.
    with _reading(files[0], dataset), gzip.open(files[0]) as file:
        stream = _Bounded(file)
        archive = tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|")  # noqa: SIM115  (it has nothing to close)
        for count, member in enumerate(archive):
            _check_size(member.size)
            if count >= _MAX_MEMBERS:
                raise ValueError(f"it contains more than {_MAX_MEMBERS} files")
            name = PurePosixPath(member.name).name
            content = archive.extractfile(member) if name in wanted and member.isreg() else None
            if content is None:
                continue
            if name in found:
                raise ValueError(f"it contains {name} twice")
            found[name] = _read_batch(io.BytesIO(content.read()), dataset)
        while stream.read(2**20):
            pass
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"it lacks {missing[0]}")
    batches = [found[name] for name in wanted]
    return batches[:-1], batches[-1:]


def _check_size(size: int) -> None:
    if size > _MAX_BYTES:
        raise ValueError(f"it contains {size} bytes, more than any batch of images has")


class _Bounded:
    """A file that is read up to a bounded size: an archive's headers may state any, and tarfile reads them whole."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._size = 0

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._size += len(piece)
        _check_size(self._size)
        return piece


# --- arrays of numpy, and the idx files of MNIST


def _read_npz(files: _Files, dataset: Dataset) -> Parts:
    batches = []
    with _reading(files[0], dataset), files[0].open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                _check_size(member.file_size)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            for part in ("train", "test"):
                images = arrays[f"x_{part}"]
                if dataset.input_shape[2] == 1 and images.ndim == 3:
                    images = images[..., np.newaxis]
                batches.append(_check_batch(images, arrays[f"y_{part}"], dataset))
    return batches[:1], batches[1:]


def _read_idx(files: _Files, dataset: Dataset) -> Parts:
    batches = []
    for image_path, label_path in (files[:2], files[2:]):
        with _reading(image_path, dataset):
            images = _idx_array(image_path, dimensions=3)[..., np.newaxis]
        with _reading(label_path, dataset):
            batches.append(_check_batch(images, _idx_array(label_path, dimensions=1), dataset))
    return batches[:1], batches[1:]


def _idx_array(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the array of an idx file: two zeros, the type (8: bytes), the dimensions, each size, all big-endian."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        magic, *shape = struct.unpack(f">{1 + dimensions}I", file.read(4 + 4 * dimensions))
        if magic != 0x800 + dimensions:
            raise ValueError(f"it starts with {magic:#010x}, not {0x800 + dimensions:#010x}")
        size = int(np.prod(shape, dtype=object))
        _check_size(size)
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"it has {'more' if len(content) > size else 'fewer'} bytes than the {size} that it states")
    return np.frombuffer(content, np.uint8).reshape(shape)
