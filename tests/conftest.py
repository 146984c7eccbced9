"""Factories that name only what a test is about, and the database server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.nouns import DatasetInfo, Phase, TrialPlan
from mloptimizer.store.workspace import Workspace

if TYPE_CHECKING:
    from tests.postgresql import Server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the database server, and as slow whatever needs a server or a cluster or is a whole search."""
    for item in items:
        if "postgresql" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
        if "end_to_end" in item.path.parts or any(item.iter_markers("server")) or any(item.iter_markers("cluster")):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[Server]":
    from tests.postgresql import start_server  # most tests need no client of it

    yield from start_server()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., DatasetInfo]:
    """Returns a data set's description; nothing is on disk."""

    def make(**changes: Any) -> DatasetInfo:
        facts: dict[str, Any] = {
            "name": "squares",
            "task": "classification",
            "input_shape": (8, 8, 1),
            "classes": 10,
            "class_names": tuple("0123456789"),
            "train_size": 800,
            "validation_size": 200,
            "test_size": 100,
            "mean": (80.0,),
            "std": (60.0,),
            "fingerprint": "f" * 64,
            "directory": str(tmp_path),
            "split_seed": 0,
            "validation_fraction": 0.2,
            "train_limit": 0,
        }
        return DatasetInfo(**{**facts, **changes})

    return make


@pytest.fixture
def make_plan(tmp_path: Path, make_dataset: Callable[..., DatasetInfo]) -> Callable[..., TrialPlan]:
    """Returns a plan of which nothing but the named fields matters."""

    def make(number: int = 0, **changes: Any) -> TrialPlan:
        facts: dict[str, Any] = {
            "study": "test",
            "number": number,
            "phase": Phase.EXPLORATION,
            "space": "line",
            "space_source": "",
            "params": {},
            "dataset": make_dataset(),
            "epochs": 3,
            "patience": 3,
            "seed": 1,
            "directory": str(tmp_path / f"trial_{number:05d}"),
            "settings": Settings(),
        }
        return TrialPlan(**{**facts, **changes})

    return make
