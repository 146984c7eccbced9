"""Decoded data sets are kept whole, shared by all processes, and made again when they are damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.data.library import list_datasets, load_split
from tests.data.dataset_files import FORMS, Data, make_data, prepare, run_python, snapshot, write_npz


def test_a_second_call_decodes_nothing(mnist: Data, tmp_path: Path) -> None:
    first, before = prepare(), snapshot(tmp_path)
    assert prepare() == first
    assert snapshot(tmp_path) == before


def test_a_decoded_data_set_is_used_when_its_source_is_gone(mnist: Data, datasets: Path) -> None:
    first = prepare()
    (datasets / "mnist.npz").unlink()
    assert prepare() == first
    assert list_datasets()["mnist"] == first.directory


def test_other_content_in_the_source_is_decoded_again(mnist: Data, datasets: Path) -> None:
    first = prepare()
    write_npz(datasets / "mnist.npz", make_data("mnist", seed=1))
    second = prepare()
    assert first.fingerprint != second.fingerprint and first.directory != second.directory
    assert (load_split(first, "test")[0] == mnist.x_test).all()


@pytest.mark.slow
def test_the_same_images_have_the_same_fingerprint_in_every_form(datasets: Path) -> None:
    seen = set()
    for form in ("cifar-10-batches-py", "cifar10.npz", "cifar-10-python.tar.gz"):
        FORMS["cifar10", form](datasets / form, make_data("cifar10"))
        seen.add(prepare("cifar10").fingerprint)
        place = datasets / form
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert len(seen) == 1


def _truncate(directory: Path) -> None:
    os.truncate(directory / "train_images.npy", 1000)


def _overwrite(directory: Path) -> None:
    with (directory / "test_images.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def _scramble_info(directory: Path) -> None:
    (directory / "info.json").write_text('{"format": 1, "fingerprint": []}')


def _state_another_size(directory: Path) -> None:
    info = json.loads((directory / "info.json").read_text())
    (directory / "info.json").write_text(json.dumps({**info, "test_size": 9}))


def _remove_info(directory: Path) -> None:
    (directory / "info.json").unlink()


def _remove_labels(directory: Path) -> None:
    (directory / "train_labels.npy").unlink()


def _replace_by_a_file(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("")


def _replace_labels(directory: Path) -> None:
    np.save(directory / "train_labels.npy", np.array([object()]), allow_pickle=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _overwrite,
        _scramble_info,
        _state_another_size,
        _remove_info,
        _remove_labels,
        _replace_by_a_file,
        _replace_labels,
    ],
)
def test_a_damaged_cache_is_written_again(damage: Callable[[Path], None], mnist: Data) -> None:
    first = prepare()
    damage(Path(first.directory))
    assert prepare() == first
    assert (load_split(first, "test")[0] == mnist.x_test).all()


def test_a_copied_cache_is_used_as_it_is(mnist: Data, datasets: Path, tmp_path: Path) -> None:
    first = prepare()
    (datasets / "mnist.npz").unlink()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "copy").rename(tmp_path / "cache")
    assert prepare() == first


def test_damaged_statistics_are_made_again(mnist: Data) -> None:
    first = prepare()
    (kept,) = Path(first.directory).glob("split-*.json")
    of_other_images = json.dumps({"mean": [1.0], "std": [1.0], "fingerprint": "0"})
    for text in ("", "[]", '{"mean": [1], "std": [0]}', of_other_images):
        kept.write_text(text)
        assert prepare() == first


@pytest.mark.slow
def test_several_processes_may_decode_the_same_data_set_at_once(mnist: Data, tmp_path: Path) -> None:
    code = "from mloptimizer.data.library import prepare_dataset; print(prepare_dataset('mnist', 0.2, 0, 0))"
    runs = [run_python(code) for _ in range(4)]
    answers = {run.communicate() for run in runs}
    assert len(answers) == 1 and answers.pop()[0].startswith("DatasetInfo(name='mnist'")
    assert len(list((tmp_path / "cache" / "datasets").iterdir())) == 1


def test_no_temporary_folder_is_left(mnist: Data, tmp_path: Path) -> None:
    info = prepare()
    assert list((tmp_path / "cache" / "datasets").iterdir()) == [Path(info.directory)]


def test_a_folder_that_a_killed_process_left_is_removed_after_a_day(mnist: Data, tmp_path: Path) -> None:
    info = prepare()
    old, young = (Path(f"{Path(info.directory).parent}/.{Path(info.directory).name}.{age}") for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    shutil.rmtree(info.directory)
    prepare()
    assert not old.exists() and young.exists()


def test_a_cache_that_cannot_be_written_is_named(mnist: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLOPTIMIZER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"file/datasets: .*MLOPTIMIZER_CACHE"):
        prepare()


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(mnist: Data, tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "from mloptimizer.data.library import prepare_dataset\n"
        "from mloptimizer.core.errors import RunError\n"
        "try: prepare_dataset('mnist', 0.2, 0, 0)\n"
        "except RunError as error: print(error)"
    )
    answer, complaint = run_python(code).communicate()
    assert "File too large" in answer and answer.count("\n") == 1 and complaint == ""
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []
