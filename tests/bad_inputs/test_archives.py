"""Damaged and hostile files of data sets: one line names the file, and it stays as it is."""

import gzip
import io
import pickle
import resource
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mloptimizer.core.errors import UsageError
from mloptimizer.data.catalog import CATALOG
from mloptimizer.data.formats import _MAX_BYTES, read_parts
from mloptimizer.data.sources import locate
from tests.bad_inputs.harness import REPEATABLE, damaged, snapshot
from tests.data.dataset_files import FORMS, make_data, pickle_of_python_2, use_folders, write_cifar_folder

BATCHES = "cifar-10-batches-py"


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Keras's folder with each form alone in it, small and whole."""
    found = {}
    for number, (key, write) in enumerate(FORMS.items()):
        folder = tmp_path_factory.mktemp(f"form{number}")
        with pytest.MonkeyPatch.context() as patch:
            datasets = use_folders(patch, folder)
            write(datasets / key[1], make_data(key[0], per_class=1))
        found[key] = folder
    return found


def read(name: str, folder: Path) -> str:
    """Return the line with which the data set in the folder is refused; empty where it is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(folder / "keras"))
        source = locate(CATALOG[name])
        if source is None or source.missing:
            return "missing"
        try:
            read_parts(source.kind, source.files, CATALOG[name])
        except UsageError as error:
            assert len(str(error).splitlines()) == 1
            return str(error)
    return ""


@given(form=st.sampled_from(sorted(FORMS)), data=st.data())
@settings(REPEATABLE, max_examples=120)
def test_a_damaged_file_is_named_or_read_and_stays(forms: dict[tuple[str, str], Path], form: Any, data: Any) -> None:
    folder = forms[form]
    path = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    whole = path.read_bytes()
    unpacked = gzip.decompress(whole) if whole.startswith(b"\x1f\x8b") else None
    inside = unpacked is not None and data.draw(st.booleans())
    try:
        changed = data.draw(damaged(unpacked if inside and unpacked else whole))
        path.write_bytes(gzip.compress(changed, 1) if inside else changed)
        before = snapshot(folder)
        line = read(form[0], folder)
        assert line in ("", "missing") or line.startswith(str(folder))
        assert snapshot(folder) == before
    finally:
        path.write_bytes(whole)


def write_batch(folder: Path, content: bytes) -> None:
    datasets = folder / "keras/datasets"
    write_cifar_folder(datasets / BATCHES, "cifar10", make_data("cifar10", per_class=1))
    (datasets / BATCHES / "data_batch_1").write_bytes(content)


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_a_changed_bit_in_a_pickles_own_numbers_takes_no_memory(tmp_path: Path) -> None:
    batch = pickle_of_python_2({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]})
    write_batch(tmp_path, batch[:-1] + b"r\x00\x00\x00\x08.")  # keeps the whole in place 134,217,728 of its list
    before = peak_mb()
    assert read("cifar10", tmp_path) == ""
    assert peak_mb() - before < 500


@pytest.mark.parametrize(
    "call", [(np.ndarray, (2**40, 3072), "B"), (np.empty(0).__reduce__()[0], np.ndarray, (2**40,), "B")]
)
def test_an_array_without_its_bytes_is_refused(call: tuple[Any, ...], tmp_path: Path) -> None:
    class Huge:
        def __reduce__(self) -> tuple[Any, ...]:
            return call[0], call[1:]

    write_batch(tmp_path, pickle.dumps({b"data": Huge(), b"labels": [0]}, 2))
    assert "data_batch_1: " in read("cifar10", tmp_path)


def test_an_archive_whose_header_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 2**32
    path = tmp_path / "keras/datasets/cifar-10-python.tar.gz"
    path.parent.mkdir(parents=True)
    block = bytes(2**24)
    member = gzip.compress(block, 9)  # members of a gzip file follow one another
    with path.open("wb") as file:
        file.write(gzip.compress(header.tobuf(tarfile.GNU_FORMAT)))
        for _ in range(_MAX_BYTES // len(block) + 2):
            file.write(member)
    assert read("cifar10", tmp_path).startswith(str(path))


@given(
    name=st.one_of(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.sampled_from(["../a", "/a"])
    ),
    kind=st.sampled_from(
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.REGTYPE]
    ),
    target=st.sampled_from(["/etc/passwd", "../../..", "data_batch_1", ""]),
)
@settings(REPEATABLE, max_examples=40)
def test_nothing_comes_out_of_an_archive(tmp_path_factory: Any, name: str, kind: bytes, target: str) -> None:
    around = tmp_path_factory.mktemp("around")
    folder = around / "inner" / "archive"  # as far below as the names and targets above lead out
    path = folder / "keras/datasets/cifar-10-python.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for member in (name, f"{name}/data_batch_1", "../data_batch_2"):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = kind, target
            info.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    before = snapshot(around)
    assert read("cifar10", folder).startswith(str(path))
    assert snapshot(around) == before
