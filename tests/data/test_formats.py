"""Every form is read as it is; damaged and hostile files are named, refused, and left alone."""

import gzip
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mloptimizer.core.errors import UsageError
from mloptimizer.data.catalog import CATALOG
from mloptimizer.data.formats import DecodedBatch, read_parts
from mloptimizer.data.sources import locate
from tests.data.dataset_files import (
    FORMS,
    IDX_FILES,
    add_member,
    cifar_batches,
    idx_bytes,
    make_data,
    pickle_of_python_2,
    snapshot,
    use_folders,
    write_cifar_folder,
    write_idx,
    write_npz,
)

Dump = Callable[[dict[bytes, Any]], bytes]
PROTOCOLS: dict[str, Dump] = {
    "python 2": pickle_of_python_2,
    "protocol 2": lambda batch: pickle.dumps(batch, 2),
    "protocol 2, numpy 1": lambda batch: pickle.dumps(batch, 2).replace(b"numpy._core", b"numpy.core"),
    "protocol 4": lambda batch: pickle.dumps(batch, 4),
    "protocol 5": lambda batch: pickle.dumps(batch, 5),
    "text keys": lambda batch: pickle.dumps({key.decode(): value for key, value in batch.items()}, 4),
}


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_folders(monkeypatch, tmp_path)


def read(name: str) -> tuple[DecodedBatch, DecodedBatch]:
    """Return the training and the test part of what lies in Keras's folder."""
    source = locate(CATALOG[name])
    assert source is not None
    training, test = (
        (np.concatenate([images for images, _ in part]), np.concatenate([labels for _, labels in part]))
        for part in read_parts(source.kind, source.files, CATALOG[name])
    )
    return training, test


def refusal(name: str) -> str:
    """Return the one line with which the data set is refused."""
    with pytest.raises(UsageError) as caught:
        read(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_form_gives_the_images_and_labels_that_it_contains(name: str, form: str, datasets: Path) -> None:
    data = make_data(name)
    FORMS[name, form](datasets / form, data)
    (x_train, y_train), (x_test, y_test) = read(name)
    assert (x_train == data.x_train).all() and (y_train == data.y_train).all()
    assert (x_test == data.x_test).all() and (y_test == data.y_test).all()


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_reading_leaves_the_persons_files_as_they_are(name: str, form: str, datasets: Path) -> None:
    FORMS[name, form](datasets / form, make_data(name))
    before = snapshot(datasets)
    read(name)
    assert snapshot(datasets) == before


@pytest.mark.parametrize("dump", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_batch_of_any_pickle_protocol_is_read(dump: Dump, datasets: Path) -> None:
    data = make_data("cifar10")
    write_cifar_folder(datasets / "cifar-10-batches-py", "cifar10", data, dump)
    assert (read("cifar10")[0][0] == data.x_train).all()


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    truth = load_digits()
    (x_train, y_train), (x_test, y_test) = read("digits")
    images = np.concatenate([x_train, x_test])[..., 0]
    assert (len(x_train), len(x_test), x_train.max()) == (1438, 359, 255)
    assert np.sort(np.round(images / 255 * 16).sum(axis=(1, 2))).tolist() == np.sort(truth.data.sum(axis=1)).tolist()
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == np.bincount(truth.target).tolist()
    assert np.ptp(np.bincount(y_test)) <= 2


# --- damage


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_file_cut_short_is_named_and_kept(name: str, form: str, keep: float, datasets: Path) -> None:
    FORMS[name, form](datasets / form, make_data(name))
    source = locate(CATALOG[name])
    assert source is not None
    os.truncate(source.files[-1], int(source.files[-1].stat().st_size * keep))
    before = snapshot(datasets)
    line = refusal(name)
    assert line.startswith(f"{source.files[-1]}: is damaged or not {name} (") and "remove" in line
    assert snapshot(datasets) == before


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_changed_bytes_are_read_or_refused_in_one_line(name: str, form: str, datasets: Path) -> None:
    FORMS[name, form](datasets / form, make_data(name, per_class=1))
    source = locate(CATALOG[name])
    assert source is not None
    path, random = source.files[0], np.random.default_rng(0)
    whole = path.read_bytes()
    for place in [*range(0, min(60, len(whole))), *random.integers(0, len(whole), 40), *range(-40, 0)]:
        changed = bytearray(whole)
        changed[place] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            read(name)
        except UsageError as error:
            assert str(path.parent) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(("name", "form"), [key for key in FORMS if key[1].endswith(("archive", ".gz", ".npz"))])
def test_a_changed_pixel_in_an_archive_is_noticed_by_its_checksum(name: str, form: str, datasets: Path) -> None:
    FORMS[name, form](datasets / form, make_data(name))
    whole = bytearray((datasets / form).read_bytes())
    whole[len(whole) // 4] ^= 0x10
    (datasets / form).write_bytes(whole)
    assert str(datasets / form) in refusal(name)


class Attack:
    """Unpickles by calling what no batch needs."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", [(os.mkdir, "harm"), (eval, "open('harm', 'w')"), (np.save, "harm", 0)])
def test_a_hostile_pickle_is_refused_before_it_runs(
    call: tuple[Any, ...], protocol: int, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(datasets)
    write_cifar_folder(datasets / "cifar-10-batches-py", "cifar10", make_data("cifar10"))
    (datasets / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({b"data": Attack(*call)}, protocol))
    assert "data_batch_3: " in refusal("cifar10")
    assert not (datasets / "harm").exists()


def test_a_hostile_pickle_in_an_archive_is_refused_too(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(datasets)
    with tarfile.open(datasets / "cifar-10-python.tar.gz", "w:gz") as archive:
        add_member(archive, "cifar-10-batches-py/data_batch_1", pickle.dumps(Attack(os.mkdir, "harm")))
    assert "posix.mkdir" in refusal("cifar10")
    assert not (datasets / "harm").exists()


def test_objects_in_an_npz_are_refused(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(datasets)
    np.savez(datasets / "mnist.npz", x_train=np.array([Attack(os.mkdir, "harm")], object))
    assert "mnist.npz: " in refusal("mnist")
    assert not (datasets / "harm").exists()


def test_nothing_is_extracted_from_an_archive_that_points_outside(datasets: Path) -> None:
    batches = cifar_batches("cifar10", make_data("cifar10"))
    with tarfile.open(datasets / "cifar-10-python.tar.gz", "w:gz") as archive:
        for file, batch in batches.items():
            add_member(archive, f"../../{file}", pickle_of_python_2(batch))
    before = snapshot(datasets.parent.parent)
    read("cifar10")
    assert snapshot(datasets.parent.parent) == before


def test_an_archive_with_a_batch_twice_is_refused(datasets: Path) -> None:
    batch = pickle_of_python_2(cifar_batches("cifar10", make_data("cifar10"))["test_batch"])
    with tarfile.open(datasets / "cifar-10-python.tar.gz", "w:gz") as archive:
        add_member(archive, "a/test_batch", batch)
        add_member(archive, "b/test_batch", batch)
    assert "test_batch twice" in refusal("cifar10")


def test_a_link_in_an_archive_is_not_followed(datasets: Path) -> None:
    with tarfile.open(datasets / "cifar-10-python.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "cifar-10-python.tar.gz: " in refusal("cifar10")


def test_an_archive_without_a_batch_is_refused(datasets: Path) -> None:
    with tarfile.open(datasets / "cifar-100-python.tar.gz", "w:gz") as archive:
        add_member(archive, "cifar-100-python/meta", b"")
    assert "(it lacks train)" in refusal("cifar100")


def test_a_file_that_states_an_absurd_size_is_refused_without_reading_it(datasets: Path) -> None:
    write_idx(datasets / "mnist", make_data("mnist"))
    bomb = struct.pack(">4I", 0x803, 2**32 - 1, 28, 28)
    (datasets / "mnist" / f"{IDX_FILES[0]}.gz").write_bytes(gzip.compress(bomb))
    assert "more than any batch of images has" in refusal("mnist")


def test_a_missing_batch_is_named(datasets: Path) -> None:
    write_cifar_folder(datasets / "cifar-10-batches-py", "cifar10", make_data("cifar10"))
    (datasets / "cifar-10-batches-py" / "data_batch_4").unlink()
    assert refusal("cifar10").startswith(f"{datasets}/cifar-10-batches-py/data_batch_4: is missing")


def test_a_folder_in_the_place_of_a_file_is_no_data_set(datasets: Path) -> None:
    (datasets / "mnist.npz").mkdir()
    assert locate(CATALOG["mnist"]) is None


def test_a_whole_form_is_preferred_to_half_of_another(datasets: Path) -> None:
    write_cifar_folder(datasets / "cifar-10-batches-py", "cifar10", make_data("cifar10"))
    (datasets / "cifar-10-batches-py" / "data_batch_4").unlink()
    write_npz(datasets / "cifar10.npz", make_data("cifar10"))
    assert len(read("cifar10")[0][0]) == 50


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x_train": np.zeros((5, 28, 28), np.float32)}, "float32, not uint8"),
        ({"x_train": np.zeros((5, 27, 28), np.uint8)}, r"\(27, 28, 1\), not \(28, 28, 1\)"),
        ({"x_train": np.zeros((5, 784), np.uint8)}, "have the shape"),
        ({"y_train": np.arange(4)}, "5 images have labels of shape"),
        ({"y_train": np.full(5, 10)}, "outside 0 to 9"),
        ({"y_train": np.full(5, -1)}, "outside 0 to 9"),
        ({"y_train": np.full(5, 0.5)}, "float64"),
        ({"x_train": np.zeros((0, 28, 28), np.uint8), "y_train": np.zeros(0, int)}, "no images"),
    ],
)
def test_arrays_that_are_not_the_data_set_are_refused(changes: dict[str, Any], reason: str, datasets: Path) -> None:
    arrays = {"x_train": np.zeros((5, 28, 28), np.uint8), "y_train": np.zeros(5, np.uint8)}
    arrays.update(x_test=arrays["x_train"], y_test=arrays["y_train"])
    np.savez(datasets / "mnist.npz", **{**arrays, **changes})
    with pytest.raises(UsageError, match=reason):
        read("mnist")


def test_an_npz_without_a_part_is_refused(datasets: Path) -> None:
    np.savez(datasets / "mnist.npz", x_train=np.zeros((5, 28, 28), np.uint8), y_train=np.zeros(5, int))
    assert "x_test" in refusal("mnist")


@pytest.mark.parametrize(
    "header", ["{'descr': (", "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}"]
)
def test_a_damaged_header_in_an_npz_is_refused(header: str, datasets: Path) -> None:
    text = header.encode() + b"\n"
    with zipfile.ZipFile(datasets / "mnist.npz", "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    assert "mnist.npz: " in refusal("mnist")


def test_an_idx_file_of_labels_in_the_place_of_images_is_refused(datasets: Path) -> None:
    write_idx(datasets / "fashion-mnist", make_data("fashion_mnist"))
    path = datasets / "fashion-mnist" / f"{IDX_FILES[0]}.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(50))))
    assert "it starts with 0x00000801, not 0x00000803" in refusal("fashion_mnist")
