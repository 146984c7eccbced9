"""Reads pickles of plain values and numpy arrays; refuses any other name in them before looking it up.

It is the only module that uses private parts of `pickle`, and the names under which numpy pickles its arrays.
`tests/data/test_formats.py` fails when either changes.
"""

import codecs
import pickle
from typing import IO, Any

import numpy as np
import numpy.typing as npt


def load_arrays(file: IO[bytes]) -> Any:
    """Return the pickled value, with Python 2's texts as bytes.

    Raises pickle.UnpicklingError: it names something that no array needs. A damaged file raises nearly anything.
    """
    return _ArrayUnpickler(file, encoding="bytes").load()


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`, with which Python 3 pickles bytes for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"a text is encoded as {encoding}, not latin1")
    return codecs.latin_1_encode(text)[0]


def _empty_array(_: object, shape: tuple[int, ...], code: object) -> npt.NDArray[Any]:
    """Stand in for numpy's `_reconstruct`; the array gets its shape and bytes afterwards, and these must agree."""
    if shape != (0,):
        raise pickle.UnpicklingError("it creates an array without its bytes")
    return _RECONSTRUCT(np.ndarray, shape, code)


_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]  # the constructors that numpy's own pickles use for an array
_FROM_BUFFER = np.empty(0).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): "ndarray",  # named, but never called: it would create an array of any size
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): _encode_latin1,
}


class _ArrayUnpickler(pickle._Unpickler):
    """The unpickler in Python: the one in C takes up to 34 GB if one bit of a number in the file has changed."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of images needs")
        return _ALLOWED[module, name]
