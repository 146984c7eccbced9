"""Splits a training set into training and validation parts: stratified, seeded, of exact sizes.

The order of the images comes from the raw output of PCG64, whose stream numpy promises to keep (NEP 19), and from
integer arithmetic, so that a seed gives the same split with every version of numpy and on every machine.
"""

import numpy as np
import numpy.typing as npt

from mloptimizer.core.errors import UsageError

Indices = npt.NDArray[np.int64]


def split_indices(
    labels: npt.NDArray[np.integer], validation_fraction: float, seed: int, limit: int = 0
) -> tuple[Indices, Indices]:
    """Return the indices of the training and of the validation images, each sorted.

    The validation part has exactly ``round(n * validation_fraction)`` of the n images used. Every class with two or
    more images is in both parts; a class's only image is in the training part.

    Args:
        labels: class of every image, shape (images,).
        validation_fraction: share of the images, above 0 and below 1.
        seed: the same seed gives the same split.
        limit: use only this many images, at least two of every class that has them; 0, or more than exist: all.

    Raises UsageError: such a split does not exist; the message says which do.
    """
    if seed < 0:
        raise UsageError(f"seed = {seed}: is negative. Possible: a whole number >= 0.")
    classes, codes = np.unique(labels, return_inverse=True)
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    members = [order[codes[order] == code] for code in range(len(classes))]
    used = _limit_counts([len(images) for images in members], limit)
    kept = _validation_counts(used, validation_fraction)
    validation = [images[:k] for images, k in zip(members, kept, strict=True)]
    training = [images[k:n] for images, k, n in zip(members, kept, used, strict=True)]
    return np.sort(np.concatenate(training)), np.sort(np.concatenate(validation))


def _limit_counts(counts: list[int], limit: int) -> list[int]:
    total = sum(counts)
    if limit == 0 or limit >= total:
        return counts
    lowest = [min(2, count) for count in counts]
    if limit < sum(lowest):
        raise UsageError(
            f"train_limit = {limit}: is too few for two images of each of the {len(counts)} classes. "
            f"Possible: 0 (all), or from {sum(lowest)} to {total}."
        )
    return _apportion(counts, limit, lowest, counts)


def _validation_counts(counts: list[int], fraction: float) -> list[int]:
    total = sum(counts)
    lowest = [int(count >= 2) for count in counts]
    highest = [max(0, count - 1) for count in counts]
    if sum(lowest) == 0:
        raise UsageError(
            f"validation_fraction = {fraction}: no class has two of the {total} training images, one for each part. "
            "Possible: a data set with more images."
        )
    wanted = round(total * fraction) if 0 < fraction < 1 else 0
    if not sum(lowest) <= wanted <= sum(highest):
        raise UsageError(
            f"validation_fraction = {fraction}: cannot give both parts an image of every class, with {total} training "
            f"images of {len(counts)} classes. Possible: from {sum(lowest) / total:.6g} to {sum(highest) / total:.6g}."
        )
    return _apportion(counts, wanted, lowest, highest)


def _apportion(counts: list[int], seats: int, lowest: list[int], highest: list[int]) -> list[int]:
    """Share the seats in proportion to the counts by largest remainder (Hamilton's method), within the bounds."""
    total = sum(counts)
    bounded = zip(counts, lowest, highest, strict=True)
    shares = [min(max(count * seats // total, low), high) for count, low, high in bounded]

    def owed(code: int) -> int:
        return counts[code] * seats - shares[code] * total

    codes = range(len(counts))
    while sum(shares) < seats:
        shares[max((code for code in codes if shares[code] < highest[code]), key=owed)] += 1
    while sum(shares) > seats:
        shares[min((code for code in codes if shares[code] > lowest[code]), key=owed)] -= 1
    return shares
