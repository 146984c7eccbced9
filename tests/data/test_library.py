"""Data sets are found, decoded once for all processes, split and described."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from mloptimizer.core.errors import RunError, UsageError
from mloptimizer.data.library import list_datasets, load_split, prepare_dataset
from mloptimizer.data.split import split_indices
from tests.data.dataset_files import (
    FORMS,
    Data,
    make_data,
    prepare,
    run_python,
    snapshot,
    write_cifar_archive,
    write_npz,
)

# --- what is given out


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_form_is_found_listed_and_prepared(name: str, form: str, datasets: Path) -> None:
    FORMS[name, form](datasets / form, make_data(name))
    info = prepare(name)
    assert (info.train_size, info.validation_size, info.test_size) == (info.classes * 4, info.classes, info.classes)
    assert list_datasets()[name] == str(datasets / form)


def test_the_description_of_the_digits() -> None:
    info = prepare("digits")
    assert (info.train_size, info.validation_size, info.test_size) == (1150, 288, 359)
    assert (info.task, info.input_shape, info.classes, info.class_names) == (
        "classification",
        (8, 8, 1),
        10,
        tuple("0123456789"),
    )


def test_the_parts_are_the_images_of_the_split(mnist: Data) -> None:
    info = prepare(seed=3)
    for split, chosen in zip(("train", "validation"), split_indices(mnist.y_train, 0.2, 3), strict=True):
        images, labels = load_split(info, split)  # type: ignore[arg-type]  # the two words are from its Literal
        assert (images == mnist.x_train[chosen]).all() and (labels == mnist.y_train[chosen]).all()
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_the_test_part_is_mapped_and_cannot_be_written(mnist: Data) -> None:
    images, labels = load_split(prepare(), "test")
    assert isinstance(images, np.memmap) and not images.flags.writeable
    assert (images == mnist.x_test).all() and (labels == mnist.y_test).all()


def test_a_limit_uses_only_that_many_training_images(mnist: Data) -> None:
    info = prepare_dataset("mnist", 0.5, 0, 30)
    assert (info.train_size, info.validation_size, info.test_size) == (15, 15, 10)
    assert len(load_split(info, "train")[0]) == 15


def test_mean_and_deviation_are_those_of_the_training_part(datasets: Path) -> None:
    write_cifar_archive(datasets / "cifar-10-python.tar.gz", "cifar10", make_data("cifar10", per_class=300))
    info = prepare("cifar10", limit=2500)  # more than one block of the file
    images, _ = load_split(info, "train")
    assert info.mean == pytest.approx(images.mean(axis=(0, 1, 2)), rel=1e-12)
    assert info.std == pytest.approx(images.std(axis=(0, 1, 2)), rel=1e-12)


def test_images_of_one_colour_have_a_deviation_of_one(mnist: Data, datasets: Path) -> None:
    write_npz(datasets / "mnist.npz", dataclasses.replace(mnist, x_train=np.full_like(mnist.x_train, 7)))
    info = prepare()
    assert (info.mean, info.std) == ((7.0,), (1.0,))


def test_the_list_names_all_data_sets_and_where_they_are() -> None:
    found = list_datasets()
    assert found.pop("digits") == "bundled with scikit-learn"
    assert found == {"mnist": "", "fashion_mnist": "", "cifar10": "", "cifar100": ""}


def test_half_a_data_set_is_not_listed_as_found(datasets: Path) -> None:
    FORMS["cifar10", "cifar-10-batches-py"](datasets / "cifar-10-batches-py", make_data("cifar10"))
    (datasets / "cifar-10-batches-py" / "data_batch_2").unlink()
    assert list_datasets()["cifar10"] == ""


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"'cifar-10'.* 'cifar10'.* cifar10, cifar100,"):
        prepare("cifar-10")


def test_an_impossible_limit_is_refused(mnist: Data) -> None:
    with pytest.raises(UsageError, match="Possible: 0"):
        prepare(limit=3)


def test_a_damaged_file_is_reported_through_the_child(datasets: Path) -> None:
    (datasets / "cifar10.npz").write_bytes(b"no npz")
    before = snapshot(datasets)
    with pytest.raises(UsageError, match=r"cifar10\.npz: "):
        prepare("cifar10")
    assert snapshot(datasets) == before


# --- the workers' side


def test_images_that_vanished_are_reported(mnist: Data) -> None:
    info = prepare()
    shutil.rmtree(info.directory)
    with pytest.raises(RunError, match=info.directory):
        load_split(info, "train")


def test_images_of_another_content_do_not_pass_for_those_of_the_study(mnist: Data) -> None:
    info = dataclasses.replace(prepare(), fingerprint="0" * 64)
    with pytest.raises(RunError, match="start a new study"):
        load_split(info, "train")


# --- the caller's process


@pytest.mark.slow
def test_the_caller_stays_small_and_free_of_large_libraries(datasets: Path) -> None:
    zeros = np.zeros((40_000, 32, 32, 3), np.uint8)
    labels = np.arange(40_000) % 10
    np.savez(datasets / "cifar10.npz", x_train=zeros, y_train=labels, x_test=zeros[:100], y_test=labels[:100])
    code = (
        "import re, sys\n"
        "from mloptimizer.data.library import prepare_dataset\n"
        "prepare_dataset('cifar10', 0.2, 0, 0)\n"
        "large = {'tensorflow', 'keras', 'sklearn', 'scipy', 'pandas', 'requests'} & set(sys.modules)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())\n"
        "print(int(peak[1]) // 1024, *large)"
    )
    answer, complaint = run_python(code).communicate()
    assert complaint == "" and int(answer) < 150
