"""Provides the named data sets, decoded, split and described.

A data set with an official test part keeps it, and nothing here looks at the test part. The caller's memory stays
small: a separate process decodes, and the images are mapped, not loaded.
"""

import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mloptimizer.core import files
from mloptimizer.core.errors import MloptimizerError, RunError, unknown_name
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.data import decoded_cache, sources
from mloptimizer.data.catalog import CATALOG, Dataset
from mloptimizer.data.decoded_cache import Entry
from mloptimizer.data.decoding_process import make_entry_in_child
from mloptimizer.data.split import split_indices

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 2**22

Split = Literal["train", "validation", "test"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel


def list_datasets() -> dict[str, str]:
    """Return the place of every data set on this machine by name; empty: it is not here.

    This only checks whether files exist, so it is fast and does not notice damage.
    """
    return {name: _place_of(dataset) for name, dataset in CATALOG.items()}


def _place_of(dataset: Dataset) -> str:
    if not dataset.downloads:
        return "bundled with scikit-learn"
    source = sources.locate(dataset)
    if source is not None:
        first, *others = source.files
        return "" if source.missing else str(first.parent if others else first)
    kept = decoded_cache.entry_folders(dataset)
    return str(kept[0]) if kept else ""


def prepare_dataset(name: str, validation_fraction: float, split_seed: int, train_limit: int) -> DatasetInfo:
    """Decode the data set unless the cache has it, and describe it with its split.

    Args:
        name: one of `CATALOG`.
        validation_fraction: share of the used training images reserved for validation, stratified by class.
        split_seed: the same seed gives the same split.
        train_limit: use only this many training images, including validation; 0: all.

    Raises:
        UsageError: the name is unknown, a file is damaged, the split is impossible, or the cache cannot be written.
        RunError: it is not on this machine and cannot be downloaded, or the disk is full.
    """
    if name not in CATALOG:
        raise unknown_name("--dataset", "data set", name, CATALOG)
    dataset = CATALOG[name]
    entry = decoded_cache.find_entry(dataset) or _make_entry(dataset)
    labels = np.load(entry.directory / "train_labels.npy", allow_pickle=False)
    training, validation = split_indices(labels, validation_fraction, split_seed, train_limit)
    statistics = entry.directory / f"split-{split_seed}-{validation_fraction!r}-{train_limit}.json"
    mean, std = _read_statistics(statistics, entry, dataset) or _make_statistics(statistics, entry, training)
    return DatasetInfo(
        name=name,
        task="classification",
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        class_names=dataset.class_names,
        train_size=len(training),
        validation_size=len(validation),
        test_size=entry.test_size,
        mean=mean,
        std=std,
        fingerprint=entry.fingerprint,
        directory=str(entry.directory),
        split_seed=split_seed,
        validation_fraction=validation_fraction,
        train_limit=train_limit,
    )


def _make_entry(dataset: Dataset) -> Entry:
    source = sources.locate(dataset)
    if sources.can_complete(source, dataset):
        _log.info("%s is not in %s: downloading it.", dataset.name, sources.keras_folder())
    else:
        _log.info("%s: decoding it once for all processes.", dataset.name)
    return make_entry_in_child(dataset)


def load_split(info: DatasetInfo, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Return the images, shape (n, height, width, channels), and the labels, shape (n,), of a part of the data set.

    The test part is mapped from disk and read-only; the others are copied into memory. Raises as `map_split`.
    """
    images, labels, rows = map_split(info, split)
    return (images, labels) if split == "test" else (np.asarray(images[rows]), labels)


def map_split(
    info: DatasetInfo, split: Split
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return a mapped, read-only file of images, and the part's labels and its rows in that file.

    Raises RunError: the decoded images are gone, or are not those that `info` describes.
    """
    directory = Path(info.directory)
    part = "test" if split == "test" else "train"
    try:
        fingerprint = files.read_json(directory / decoded_cache.INFO_FILE)["fingerprint"]
        images = np.load(directory / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(directory / f"{part}_labels.npy", allow_pickle=False)
    except (MloptimizerError, OSError, ValueError, LookupError, EOFError) as error:
        gone = f"{directory}: the decoded images of {info.name} are missing or damaged."
        raise RunError(f"{gone} Run the command again to restore them.") from error
    if fingerprint != info.fingerprint:
        raise RunError(
            f"{directory}: its images of {info.name} are not those that the study started with. "
            "Restore the data set's files, or start a new study."
        )
    if split == "test":
        return images, labels, np.arange(len(labels))
    training, validation = split_indices(labels, info.validation_fraction, info.split_seed, info.train_limit)
    rows = training if split == "train" else validation
    return images, labels[rows], rows


# --- statistics of the training part


def _read_statistics(path: Path, entry: Entry, dataset: Dataset) -> Statistics | None:
    try:
        values = files.read_json(path)
        mean, std = (tuple(float(number) for number in values[key]) for key in ("mean", "std"))
    except (MloptimizerError, LookupError, TypeError, ValueError):
        return None
    whole = len(mean) == len(std) == dataset.input_shape[2] and all(map(math.isfinite, mean)) and min(std) > 0
    return (mean, std) if whole and values.get("fingerprint") == entry.fingerprint else None


def _make_statistics(path: Path, entry: Entry, training: npt.NDArray[np.int64]) -> Statistics:
    mean, std = _channel_statistics(entry.directory / "train_images.npy", training)
    try:
        files.write_json(path, {"fingerprint": entry.fingerprint, "mean": mean, "std": std})
    except MloptimizerError as error:  # someone else's cache, which may only be read
        _log.debug("not saved: %s", error)
    return mean, std


def _channel_statistics(path: Path, chosen: npt.NDArray[np.int64]) -> Statistics:
    """Return mean and standard deviation of each channel of the chosen images, on the scale of 0 to 255.

    The file is read in blocks, as mapped pages would count as the process's memory; the sums are integers, so the
    result does not depend on the blocks. A deviation of 0 becomes 1.
    """
    mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    (count, height, width, channels), offset = mapped.shape, mapped.offset
    del mapped
    member = np.zeros(count, bool)
    member[chosen] = True
    image_bytes = height * width * channels
    histogram = np.zeros((channels, 256), np.int64)
    block = max(1, _BLOCK_BYTES // image_bytes)
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, count, block):
            wanted = member[start : start + block]
            pixels = np.fromfile(file, np.uint8, len(wanted) * image_bytes).reshape(len(wanted), -1, channels)[wanted]
            for channel in range(channels):
                histogram[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    number = len(chosen) * height * width
    totals = [int(row @ values) for row in histogram]
    squares = [int(row @ values**2) for row in histogram]
    mean = tuple(total / number for total in totals)
    variances = [(number * square - total**2) / number**2 for total, square in zip(totals, squares, strict=True)]
    return mean, tuple(math.sqrt(variance) or 1.0 for variance in variances)
