"""The split is stratified, seeded and exact, or refused with what is possible."""

import numpy as np
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.data.split import split_indices

EVEN = np.repeat(np.arange(10), 100)
UNEVEN = np.repeat(np.arange(4), [700, 250, 47, 3])


def test_both_parts_together_are_all_images_once() -> None:
    training, validation = split_indices(UNEVEN, 0.2, seed=1)
    assert sorted([*training, *validation]) == list(range(1000))
    assert training.dtype == validation.dtype == np.int64


def test_the_indices_of_each_part_are_sorted() -> None:
    for part in split_indices(UNEVEN, 0.2, seed=1):
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.333, 0.5, 0.77, 0.9])
def test_the_validation_part_has_exactly_its_share(fraction: float) -> None:
    assert len(split_indices(UNEVEN, fraction, seed=1)[1]) == round(1000 * fraction)


def test_every_class_keeps_its_share() -> None:
    _, validation = split_indices(UNEVEN, 0.2, seed=1)
    assert np.bincount(UNEVEN[validation]).tolist() == [140, 50, 9, 1]


def test_a_class_of_two_images_is_in_both_parts() -> None:
    labels = np.array([0] * 98 + [1] * 2)
    training, validation = split_indices(labels, 0.02, seed=0)
    assert set(labels[training]) == set(labels[validation]) == {0, 1}


def test_the_only_image_of_a_class_is_trained_with() -> None:
    training, _ = split_indices(np.array([0] * 9 + [1]), 0.5, seed=0)
    assert 9 in training


def test_the_same_seed_gives_the_same_split() -> None:
    first, second = (split_indices(EVEN, 0.2, seed=5)[1] for _ in range(2))
    assert (first == second).all()


def test_another_seed_gives_another_split() -> None:
    first, second = (split_indices(EVEN, 0.2, seed=seed)[1] for seed in (5, 6))
    assert (first != second).any()


def test_the_split_of_a_seed_never_changes() -> None:
    _, validation = split_indices(np.repeat(np.arange(3), 5), 0.2, seed=42)
    assert validation.tolist() == [4, 8, 10]


def test_the_limit_counts_both_parts_and_keeps_the_classes_shares() -> None:
    training, validation = split_indices(UNEVEN, 0.2, seed=1, limit=100)
    assert (len(training), len(validation)) == (80, 20)
    assert np.bincount(UNEVEN[np.concatenate([training, validation])]).tolist() == [69, 25, 4, 2]


@pytest.mark.parametrize("limit", [0, 1000, 5000])
def test_no_limit_or_a_high_one_takes_all_images(limit: int) -> None:
    assert sum(map(len, split_indices(EVEN, 0.2, seed=1, limit=limit))) == 1000


@pytest.mark.parametrize("limit", [-1, 1, 19])
def test_a_limit_below_two_images_a_class_is_refused(limit: int) -> None:
    with pytest.raises(UsageError, match=r"Possible: 0 \(all\), or from 20 to 1000\."):
        split_indices(EVEN, 0.2, seed=1, limit=limit)


@pytest.mark.parametrize("fraction", [-0.5, 0.0, 0.005, 0.995, 1.0, float("nan")])
def test_a_fraction_that_leaves_a_class_out_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match=r"Possible: from 0\.01 to 0\.99\."):
        split_indices(EVEN, fraction, seed=1)


@pytest.mark.parametrize("counts", [[2, 2, 2, 1], [3, 2, 2], [7, 5, 2, 2, 1], [5000] * 10, [123, 4567, 89]])
def test_the_fractions_that_are_called_possible_are(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    with pytest.raises(UsageError) as refusal:
        split_indices(labels, 0, seed=1)
    _, low, _, high = str(refusal.value).removesuffix(".").rsplit(maxsplit=3)
    for fraction in (float(low), float(high)):
        assert all(len(part) for part in split_indices(labels, fraction, seed=1))


def test_classes_of_one_image_each_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="no class has two"):
        split_indices(np.arange(10), 0.2, seed=1)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed = -1"):
        split_indices(EVEN, 0.2, seed=-1)
