"""Defines the named data sets: their content, the forms in which people have them, and where to download them.

The forms are tried in the order given here, the fastest to read first.
"""

from dataclasses import dataclass
from typing import Literal

FormKind = Literal["digits", "cifar_batches", "cifar_archive", "npz", "idx"]


@dataclass(frozen=True)
class Form:
    """Files that contain the whole data set, relative to the folder of data sets, the training part first."""

    kind: FormKind
    files: tuple[str, ...]


@dataclass(frozen=True)
class Download:
    """A file on the internet, and its path in Keras' folder of data sets."""

    url: str
    sha256: str
    path: str


@dataclass(frozen=True)
class Dataset:
    """A named data set. The sizes are the official ones; files on a disk may contain fewer images."""

    name: str
    description: str
    input_shape: tuple[int, int, int]  # height, width, channels
    class_names: tuple[str, ...]
    train_size: int
    test_size: int
    forms: tuple[Form, ...]
    downloads: tuple[Download, ...] = ()
    label_key: str = ""  # of the labels in a CIFAR batch
    by_hand: str = ""  # files that a person can put into the folder of data sets instead

    @property
    def classes(self) -> int:
        return len(self.class_names)


_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""

_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_TORONTO_URL = "https://www.cs.toronto.edu/~kriz/"

# The hashes of MNIST and CIFAR are those that Keras checks. Keras checks none for Fashion-MNIST: these are the ones
# that TensorFlow Datasets lists for the authors' files.
_MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
_CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_CIFAR100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
_FASHION_SHA256 = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)


def _idx_forms(*folders: str) -> tuple[Form, ...]:
    places = ((folder, end) for folder in folders for end in (".gz", ""))
    return tuple(Form("idx", tuple(f"{folder}{file}{end}" for file in _IDX_FILES)) for folder, end in places)


def _cifar_forms(folder: str, files: tuple[str, ...], npz: str, archives: tuple[str, ...]) -> tuple[Form, ...]:
    # Keras 2 extracted into the folder itself; Keras 3 extracts into FOLDER-target, from FOLDER-target_archive.
    places = (folder, f"{folder}-target/{folder}", f"{folder}-target", f"{folder}-target_archive/{folder}")
    batches = tuple(Form("cifar_batches", tuple(f"{place}/{file}" for file in files)) for place in places)
    return (*batches, Form("npz", (npz,)), *(Form("cifar_archive", (archive,)) for archive in archives))


CIFAR10_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CIFAR100_BATCHES = ("train", "test")

_ALL = (
    Dataset("digits", "handwritten digits of 43 people, grey, a fifth of them kept as the test set",
            (8, 8, 1), _DIGITS, 1438, 359,
            forms=(Form("digits", ("datasets/data/digits.csv.gz",)),)),
    Dataset("mnist", "handwritten digits, grey", (28, 28, 1), _DIGITS, 60_000, 10_000,
            forms=(Form("npz", ("mnist.npz",)), *_idx_forms("mnist/", "MNIST/raw/")),
            downloads=(Download(f"{_KERAS_URL}mnist.npz", _MNIST_SHA256, "mnist.npz"),),
            by_hand="mnist.npz, or the folder mnist with the four idx files"),
    Dataset("fashion_mnist", "pictures of clothes, grey", (28, 28, 1), _FASHION, 60_000, 10_000,
            forms=(*_idx_forms("fashion-mnist/", "fashion_mnist/"),
                   Form("npz", ("fashion_mnist.npz",)), Form("npz", ("fashion-mnist.npz",))),
            downloads=tuple(Download(f"{_KERAS_URL}{file}.gz", sha256, f"fashion-mnist/{file}.gz")
                            for file, sha256 in zip(_IDX_FILES, _FASHION_SHA256, strict=True)),
            by_hand="the folder fashion-mnist with the four idx files, or fashion_mnist.npz"),
    Dataset("cifar10", "photographs of animals and vehicles, in colour", (32, 32, 3), _CIFAR10, 50_000, 10_000,
            forms=_cifar_forms(
                "cifar-10-batches-py", CIFAR10_BATCHES, "cifar10.npz",
                ("cifar-10-batches-py-target_archive", "cifar-10-batches-py.tar.gz", "cifar-10-python.tar.gz")),
            downloads=(Download(f"{_TORONTO_URL}cifar-10-python.tar.gz", _CIFAR10_SHA256,
                                "cifar-10-batches-py-target_archive"),),
            label_key="labels",
            by_hand="cifar-10-python.tar.gz, the folder cifar-10-batches-py, or cifar10.npz"),
    Dataset("cifar100", "photographs in 100 fine classes, in colour", (32, 32, 3), tuple(_CIFAR100.split()),
            50_000, 10_000,
            forms=_cifar_forms("cifar-100-python", CIFAR100_BATCHES, "cifar100.npz",
                               ("cifar-100-python-target_archive", "cifar-100-python.tar.gz")),
            downloads=(Download(f"{_TORONTO_URL}cifar-100-python.tar.gz", _CIFAR100_SHA256,
                                "cifar-100-python-target_archive"),),
            label_key="fine_labels",
            by_hand="cifar-100-python.tar.gz, the folder cifar-100-python, or cifar100.npz"),
)  # fmt: skip

CATALOG = {dataset.name: dataset for dataset in _ALL}
