"""How a step is divided: what is stated, what the data allow, and halves of it."""

from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.training.memory.batch_plan import fewer_at_once, plan_batch


def divide(images: int, steps: int = 1, *, replicas: int = 1, **settings: Any) -> tuple[int, int, int]:
    """Return images per step, micro-batches, and images of each."""
    batch = plan_batch(Settings(**settings), images, replicas, steps)
    return batch.global_batch, batch.accumulation_steps, batch.micro_batch


def test_a_stated_batch_takes_the_next_number_of_micro_batches_that_divides_it() -> None:
    assert divide(1000, batch_size=64, accumulation_steps=4) == (64, 4, 16)
    assert divide(1000, batch_size=60, accumulation_steps=8) == (60, 10, 6)


def test_a_stated_batch_that_only_divides_into_far_more_parts_is_refused() -> None:
    with pytest.raises(UsageError, match="31 micro-batches of 2 would. Possible: batch_size = 60 or 64"):
        divide(1000, batch_size=62, accumulation_steps=4)
    with pytest.raises(UsageError, match="Possible: batch_size = 5."):
        divide(1000, batch_size=1, batch_size_multiplier=11, accumulation_steps=5)


@pytest.mark.parametrize(("images", "stated", "rounded"), [(61, 4, 60), (27, 4, 24), (62, 8, 56)])
def test_a_batch_of_all_images_is_rounded_down_to_a_multiple_of_what_is_stated(
    images: int, stated: int, rounded: int
) -> None:
    assert divide(images, batch_size=128, accumulation_steps=stated) == (rounded, stated, rounded // stated)


@pytest.mark.parametrize(("images", "rounded"), [(61, 60), (797, 768), (5, 5), (106, 106), (100, 100)])
def test_a_batch_of_all_images_is_rounded_down_where_it_cannot_be_halved(images: int, rounded: int) -> None:
    assert divide(images, batch_size=1024) == (rounded, 1, rounded)
    assert divide(2 * images, batch_size=1024, replicas=2) == (2 * rounded, 1, rounded)


@pytest.mark.parametrize("images", [61, 797, 211])
def test_a_prime_number_of_images_is_halved_and_its_step_stays_the_same(images: int) -> None:
    first = plan_batch(Settings(batch_size=1024), images, 1)
    steps = fewer_at_once(first, min_micro_batch=8)
    assert steps == 2
    assert divide(images, steps, batch_size=1024) == (first.global_batch, 2, first.micro_batch // 2)
