"""Orders travel from one terminal to the search of another as files."""

from pathlib import Path

import pytest

from mloptimizer.store.orders import Order, OrderName, send_order, take_orders


def test_orders_are_taken_once_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    sent = [Order(OrderName.ADD_TRIALS, 3), Order(OrderName.PAUSE), Order(OrderName.RESUME), Order(OrderName.STOP)]
    files = [send_order(tmp_path / "orders", order) for order in sent]
    assert take_orders(tmp_path / "orders") == sent
    assert not any(path.exists() for path in files)
    assert take_orders(tmp_path / "orders") == []


def test_without_the_folder_there_are_no_orders(tmp_path: Path) -> None:
    assert take_orders(tmp_path / "orders") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '{"order": "stop"}',
        '{"order": "fly", "trials": 0}',
        '{"order": "stop", "trials": "many"}',
        '{"order": "stop", "trials": Infinity}',
        '{"order": "stop", "trials": null}',
    ],
)
def test_what_is_not_an_order_is_removed_with_a_warning_and_changes_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1.json").write_text(text)
    send_order(tmp_path, Order(OrderName.PAUSE))
    assert take_orders(tmp_path) == [Order(OrderName.PAUSE)]
    assert list(tmp_path.iterdir()) == []
    assert "1.json: is not an order, and is removed" in caplog.text
