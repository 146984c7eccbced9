"""Damaged records of a study: every command on it says so in a line or a table, and leaves the others as they are."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mloptimizer.app import assembly, exporting
from mloptimizer.app.preparation import prepare_search
from mloptimizer.app.search_request import SearchRequest
from mloptimizer.core.errors import MloptimizerError, RunError
from mloptimizer.core.nouns import dataset_from_json
from mloptimizer.store.orders import take_orders
from mloptimizer.store.workspace import Workspace
from tests.bad_inputs.conftest import digits
from tests.bad_inputs.harness import REPEATABLE, assert_well_told, copy_of, damaged, run, snapshot
from tests.small_searches import run_small_search

COMMANDS = (
    *("trials s", "trials s --sort value", "trials s --csv out.csv", "show s", "show s 0", "show s 1", "show s 5"),
    *("hardware s", "hardware s 0", "export s -o out", "export s -o out --trial 1", "resume s"),
    *("search --study s --trials +2", "add-trials s 3", "stop s", "spaces", "settings"),
    "search --dataset digits --study t --warm-start s",
)
WRITTEN = ("out", "studies.journal", "driver.lock")  # by the commands; the journal is healed
ORDERS = "metrics_data/s/orders/"  # those for an earlier search; the next one removes them


@pytest.fixture(autouse=True)
def _without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a search when it is prepared, and an export where its process would begin."""

    def stop(*_: object) -> None:
        raise RunError("prepared")

    def export(_: object, plan: Mapping[str, Any], source: str, weights: str, target: str) -> Mapping[str, object]:
        dataset_from_json(plan.get("dataset", {}))
        Path(target).touch()
        return {"input": {"shape": []}, "labels": []}

    monkeypatch.setattr(assembly, "_prepare_dataset", stop)
    monkeypatch.setattr(exporting, "_in_own_process", export)


def records(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and path.suffix != ".md")


def harm(data: st.DataObject, place: Path) -> Path:
    """Damage one of the files, or put a folder in its place; return it."""
    path = place / data.draw(st.sampled_from(records(place)), label="file")
    if data.draw(st.integers(0, 9), label="folder") == 0:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(data.draw(damaged(path.read_bytes()), label="bytes"))
    return path


@pytest.mark.slow
@given(data=st.data())
@settings(REPEATABLE, max_examples=110)
def test_a_command_on_a_damaged_study_tells_it_and_loses_nothing(written: Path, data: st.DataObject) -> None:
    with copy_of(written) as place:
        harm(data, place)
        before = snapshot(place)
        command = data.draw(st.sampled_from(COMMANDS), label="command")
        assert_well_told(run(*command.split(), cwd=place))
        after = snapshot(place)
        counted = command.startswith("add-trials")
        lost = [
            name
            for name in before
            if before[name] != after.get(name)
            and not (name.endswith(WRITTEN) or name.startswith(ORDERS) or (counted and name.endswith("study.json")))
        ]
        assert lost == []
        assert {name for name in after if name not in before and not name.split("/")[0].startswith("out")} <= {
            "metrics_data/s/driver.lock",
            "metrics_data/studies.journal.flock",
        }


@pytest.mark.slow
@given(data=st.data())
@settings(REPEATABLE, max_examples=30)
def test_a_search_goes_on_from_damaged_records_or_says_why_not(written: Path, data: st.DataObject) -> None:
    with copy_of(written) as place:
        path = harm(data, place)
        workspace = Workspace(place)
        with contextlib.suppress(MloptimizerError):
            prepare_search(SearchRequest(workspace, study="s", more_trials=2))
            before = {name: digest for name, digest in snapshot(place).items() if name.endswith(".json")}
            run_small_search(workspace, digits(place), trials=8)
            kept = {
                place / name for name in before if name.endswith("result.json") and "test_evaluation" not in name
            } - {path}
            after = set(snapshot(place).values())  # one that the damaged journal does not know is set aside
            assert [path for path in kept if before[str(path.relative_to(place))] not in after] == []


@given(data=st.data())
@settings(REPEATABLE, max_examples=30)
def test_a_damaged_order_is_left_out(written: Path, data: st.DataObject) -> None:
    with copy_of(written) as place:
        folder = Workspace(place).orders("s")
        (order,) = folder.iterdir()
        order.write_bytes(data.draw(damaged(order.read_bytes())))
        assert all(found.trials >= 0 for found in take_orders(folder))
        assert list(folder.iterdir()) == []
