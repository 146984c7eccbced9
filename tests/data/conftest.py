"""Every test of the data sets has folders of its own."""

from pathlib import Path

import pytest

from tests.data.dataset_files import Data, make_data, use_folders, write_npz


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_folders(monkeypatch, tmp_path)


@pytest.fixture
def mnist(datasets: Path) -> Data:
    data = make_data("mnist")
    write_npz(datasets / "mnist.npz", data)
    return data
