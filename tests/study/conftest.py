"""The journal and the study that most tests are about."""

from pathlib import Path

import pytest

from mloptimizer.study.study import Study
from tests.study.small_studies import open_


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "metrics_data" / "studies.journal"


@pytest.fixture
def study(journal: Path) -> Study:
    return open_(journal)
