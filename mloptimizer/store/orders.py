"""Carries a person's orders from another terminal to the running search: each is a small file in the study's folder.

The search takes an order by removing its file, so the sender sees that it was taken. A file that is not an order is
removed with a warning and changes nothing.
"""

import logging
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mloptimizer.core.errors import MloptimizerError
from mloptimizer.core.files import read_json, write_json

_logger = logging.getLogger(__name__)


class OrderName(StrEnum):
    """What a running search can be asked to do."""

    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    ADD_TRIALS = "add_trials"


@dataclass(frozen=True)
class Order:
    """An order; `trials`: how many to add."""

    name: OrderName
    trials: int = 0


def send_order(folder: Path, order: Order) -> Path:
    """Write the order for the running search; return its file, which is gone once the order was taken.

    Raises:
        UsageError, RunError: the folder cannot be written.
    """
    path = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"  # names sort by the time of sending
    write_json(path, {"order": order.name, "trials": order.trials})
    return path


def take_orders(folder: Path) -> list[Order]:
    """Return the orders that have arrived, the oldest first, and remove them."""
    orders = []
    for path in sorted(path for path in folder.glob("*.json") if path.is_file()):
        try:
            value = read_json(path)
            orders.append(Order(OrderName(str(value["order"])), max(int(value["trials"]), 0)))
        except (MloptimizerError, KeyError, ValueError, TypeError, OverflowError):
            _logger.warning("%s: is not an order, and is removed.", path)
        path.unlink(missing_ok=True)
    return orders
