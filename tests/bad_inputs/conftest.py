"""A small workspace that the real code has written, once; every example gets a copy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import EndedAttempt
from mloptimizer.core.nouns import DatasetInfo, Phase, TrialPlan, to_json
from mloptimizer.search.budgets import RUN_SETTINGS
from mloptimizer.store.metrics_store import MetricsStore
from mloptimizer.store.orders import Order, OrderName, send_order
from mloptimizer.store.workspace import Workspace
from mloptimizer.tuning.plans import TuningPlan, keep_plan
from tests.bad_inputs.harness import copy_of
from tests.small_searches import LINE, run_small_search


def digits(folder: Path) -> DatasetInfo:
    """Return a description of the digits; nothing is on disk."""
    names = tuple("0123456789")
    sizes = (1150, 288, 359)
    return DatasetInfo(
        "digits", "classification", (8, 8, 1), 10, names, *sizes, (80.0,), (60.0,), "f" * 64, str(folder), 0, 0.2, 0
    )


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of a search named "s": both phases, test evaluation, attempts, an order and a tuning plan."""
    workspace = Workspace(tmp_path_factory.mktemp("written"))
    dataset, store = digits(workspace.root), MetricsStore(workspace, "s")
    run_small_search(workspace, dataset)
    settings = Settings(trials=6).model_dump(mode="json", exclude={"storage", *RUN_SETTINGS})
    facts = {"study": "s", "seed": 1, "spaces": ["line"], "storage": "", "settings": settings, "tuned": {}}
    store.write_study({**facts, "dataset": to_json(dataset)}, {"line": LINE})
    record = store.trial(1)
    assert record is not None
    plan = TrialPlan(
        "s", 1, Phase.EXPLORATION, "line", LINE, record.plan["params"], dataset, 3, 3, 1, "", settings=Settings()
    )
    store.add_attempt(plan, EndedAttempt(1, "crash", "signal 11", 1, 0.5))
    send_order(workspace.orders("s"), Order(OrderName.ADD_TRIALS, 1))
    keep_plan(
        workspace, TuningPlan({"cpu": "a"}, "resnet", {"xla": "off"}, 1.5, 1000, ({"name": "start"},), "2025-01-01")
    )
    return workspace.root


@pytest.fixture
def place(written: Path) -> Iterator[Path]:
    """A copy of the workspace for tests that must not change it."""
    with copy_of(written) as folder:
        yield folder
