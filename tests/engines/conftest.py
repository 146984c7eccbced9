"""The cluster and its actors, which all tests of the Ray engine share: starting them takes most of the time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from mloptimizer.core.events import Decision

if TYPE_CHECKING:
    from mloptimizer.engines.ray.agents import Agents
    from tests.engines.ray_cluster import TestCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[TestCluster]":
    from tests.engines.ray_cluster import start_cluster  # other engines need no Ray

    patch = pytest.MonkeyPatch()
    patch.setenv("MLOPTIMIZER_CACHE", str(tmp_path_factory.mktemp("node_cache")))
    yield from start_cluster(tmp_path_factory.mktemp("ray"))
    patch.undo()


@pytest.fixture(scope="session")
def notes() -> list[Decision]:
    """What the actors' keeper has noted."""
    return []


@pytest.fixture(scope="session")
def agents(cluster: "TestCluster", notes: list[Decision]) -> "Iterator[Agents]":
    from mloptimizer.engines.ray.agents import Agents
    from tests.engines.ray_cluster import perform

    agents = Agents(perform, "forkserver", ("tests.engines.ray_cluster",), notes.append, 10)
    yield agents
    agents.close()
