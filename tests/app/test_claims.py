import pytest

from mloptimizer.app.claims import claim_study
from mloptimizer.app.preparation import prepare_search
from mloptimizer.app.search_request import SearchRequest
from mloptimizer.core.errors import UsageError
from mloptimizer.core.locks import is_held
from mloptimizer.store.orders import Order, OrderName, send_order, take_orders
from mloptimizer.store.workspace import Workspace


def test_searches_that_begin_together_without_a_name_make_a_study_each(workspace: Workspace) -> None:
    request = SearchRequest(workspace, "digits")
    prepared = [prepare_search(request) for _ in range(3)]
    with claim_study(request, prepared[0]) as first, claim_study(request, prepared[1]) as second:
        assert [first.name, second.name] == ["digits", "digits-2"]
        workspace.study_file("digits").write_text("{}")
    with claim_study(request, prepared[2]) as third:  # the first is done by now
        assert third.name == "digits-2"


def test_a_study_that_is_named_is_refused_while_another_search_holds_it(workspace: Workspace) -> None:
    request = SearchRequest(workspace, "digits", "s")
    prepared = prepare_search(request)
    with claim_study(request, prepared), pytest.raises(UsageError, match="'s': process"):
        claim_study(request, prepared).__enter__()
    with claim_study(request, prepared):
        assert is_held(workspace.driver_lock("s"))


def test_a_search_that_makes_nothing_leaves_nothing(workspace: Workspace) -> None:
    request = SearchRequest(workspace, "digits")
    with claim_study(request, prepare_search(request)):
        assert is_held(workspace.driver_lock("digits"))
    assert not workspace.metrics.exists()


def test_a_search_hears_only_what_it_is_told_itself(workspace: Workspace) -> None:
    request = SearchRequest(workspace, "digits")
    orders = workspace.orders("digits")
    send_order(orders, Order(OrderName.STOP))
    with claim_study(request, prepare_search(request)):
        assert take_orders(orders) == []
        send_order(orders, Order(OrderName.PAUSE))
        assert [order.name for order in take_orders(orders)] == [OrderName.PAUSE]
