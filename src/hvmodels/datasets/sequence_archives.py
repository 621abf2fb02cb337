"""npz archives with one entry a sequence: the released ones, whose object arrays are pickles, and a layout without pickles.

SmoothNet and DeciWatch publish their data as object arrays, VideoPose3D as arrays of one dict. NumPy would unpickle them, and so
run whatever code a file holds. Here a pickle can make nothing but arrays, numbers, text, and lists and dicts of them: what it
names is replaced by classes of this module, and anything else is refused.

The safe layout holds, for each key, the rows of all entries one after another under `key`, and the number of rows of
each entry under `key.rows`; text is UTF-8 bytes.
"""

import math
import pickle
import re
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np


ROWS = ".rows"


class _Made:
    """What a pickle may make; it can set no attributes of it."""

    def __setstate__(self, state: Any):
        raise pickle.UnpicklingError("a state where none belongs")


class _DType(_Made):
    """Stands for `numpy.dtype`: booleans, numbers, text and objects, without fields."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or not re.fullmatch(r"[biufUSO]\d{1,6}", code):
            raise pickle.UnpicklingError(f"the data type {code!r}")
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple):
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("a structured data type")
        self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.code[0] == "O"

    def to_numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array(_Made):
    """Stands for the function that makes a `numpy.ndarray`, and for the array; one of objects keeps them as a list."""

    def __init__(self, kind: Any, shape: Any, code: Any):
        self.shape, self.values = (0,), []

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError("an array of another kind")
        if dtype.is_object:
            if not isinstance(data, list) or len(data) != math.prod(shape) or (fortran and len(shape) > 1):
                raise pickle.UnpicklingError("an object array of another kind")
            self.values = data
        else:
            data = data.encode("latin1") if isinstance(data, str) else data
            values = np.frombuffer(data, dtype.to_numpy()).reshape(shape, order="F" if fortran else "C")
            self.values = values.copy()
        self.shape = tuple(shape)


class _ArrayType(_Made):
    """Stands for `numpy.ndarray`, which appears as an argument only."""


class _Scalar(_Made):
    """Stands for a NumPy number or text."""

    def __init__(self, dtype: _DType, data: Any):
        data = data.encode("latin1") if isinstance(data, str) else data
        if dtype.is_object:
            raise pickle.UnpicklingError("a number of another kind")
        self.value = np.frombuffer(data, dtype.to_numpy(), count=1)[0]


class _Bytes(_Made):
    """Stands for the function that older pickles write bytes with."""

    def __new__(cls, text: str, encoding: str):
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"the encoding {encoding!r}")
        return text.encode("latin1")


_ALLOWED = {("numpy", "dtype"): _DType, ("numpy", "ndarray"): _ArrayType, ("_codecs", "encode"): _Bytes}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED |= {(_module, "_reconstruct"): _Array, (_module, "scalar"): _Scalar}


class _Unpickler(pickle._Unpickler):  # the one in C makes room for as many objects as a file claims to have
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _plain(value: Any, dicts: bool = False) -> Any:
    """An unpickled value as arrays, numbers, text, and lists and, where they are allowed, dicts of them."""
    if isinstance(value, _Array):
        if isinstance(value.values, np.ndarray):
            return value.values
        parts = [_plain(part, dicts) for part in value.values]
        if value.shape == ():
            return parts[0]
        for size in value.shape[:0:-1]:
            parts = [parts[start : start + size] for start in range(0, len(parts), max(size, 1))]
        return parts
    if isinstance(value, _Scalar):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(part, dicts) for part in value]
    if dicts and isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        return {key: _plain(part, dicts) for key, part in value.items()}
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__}")


def unpickle_dict(path: str | PathLike) -> dict[str, Any]:
    """Read a pickled dict of arrays, numbers, text and lists of them, as CIFAR's batches are, without running code.

    Text of Python 2 is read as Latin-1.

    Raises:
        ValueError: If the file is absent, damaged, of another kind, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            value = _Unpickler(file, encoding="latin1").load()
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError("it is no dict by names")
        return {key: _plain(entry) for key, entry in value.items()}
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"`path` {str(path)!r} was not read: its pickle may hold arrays, numbers, text and lists only, and it has "
            f"{error}. No code of it was run."
        ) from None
    except Exception as error:
        raise ValueError(
            f"`path` {str(path)!r} must be a pickled dict of arrays, and cannot be read ({type(error).__name__}: {error})."
        ) from error


def _as_entry(value: Any, key: str) -> np.ndarray:
    """One sequence's entry as an array of numbers or text."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind not in "biufU":
        raise ValueError(f"an entry of {key!r} is no array of numbers or text")
    return array


def _read_member(archive: zipfile.ZipFile, name: str, dicts: bool = False) -> Any:
    """The array of a member, or the lists of an object array, or the value of one without axes."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject:
            value = _Unpickler(file, encoding="latin1").load()
            if not isinstance(value, _Array) or not isinstance(value.values, list) or value.shape != shape:
                raise pickle.UnpicklingError("another array than its header says")
            return _plain(value, dicts)
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_sequence_archive(path: str | PathLike) -> dict[str, list[np.ndarray]]:
    """Read an archive, of the released or the safe layout, without running code that it may hold.

    Args:
        path: `.npz` file.

    Returns:
        For each key a list with one array of numbers or text a sequence.

    Raises:
        ValueError: If the file is absent, damaged, of another kind, or holds anything else than arrays and lists.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): _read_member(archive, name) for name in archive.namelist()}
        entries = {}
        for key, value in members.items():
            if key + ROWS in members:
                ends = np.cumsum(members[key + ROWS])
                if value.ndim == 0 or len(ends) == 0 or members[key + ROWS].min() < 0 or ends[-1] != len(value):
                    raise ValueError(f"{key + ROWS!r} does not fit {key!r}")
                value = np.split(value, ends[:-1])
            if not key.endswith(ROWS):
                entries[key] = [_as_entry(entry, key) for entry in value]
        return entries
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"`path` {str(path)!r} was not read: its pickle may hold arrays, numbers, text and lists only, and it has "
            f"{error}. No code of it was run."
        ) from None
    except Exception as error:  # the parsers of zip, NumPy's header and pickle raise a dozen kinds on damaged files
        raise ValueError(
            f"`path` {str(path)!r} must be an npz archive with one entry a sequence, and cannot be read "
            f"({type(error).__name__}: {error})."
        ) from error


def read_object_archive(path: str | PathLike) -> dict[str, Any]:
    """Read an archive of nested dicts and lists of arrays, as VideoPose3D's, without running code that it may hold.

    Args:
        path: `.npz` file.

    Returns:
        For each key its value: an array, or the dicts and lists of an object array.

    Raises:
        ValueError: If the file is absent, damaged, of another kind, or holds anything else than arrays, numbers, text, and lists
            and dicts of them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return {name.removesuffix(".npy"): _read_member(archive, name, dicts=True) for name in names}
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"`path` {str(path)!r} was not read: its pickle may hold arrays, numbers, text, lists and dicts only, and it has "
            f"{error}. No code of it was run."
        ) from None
    except Exception as error:  # as in `read_sequence_archive`
        raise ValueError(
            f"`path` {str(path)!r} must be an npz archive, and cannot be read ({type(error).__name__}: {error})."
        ) from error


def write_sequence_archive(path: str | PathLike, entries: dict[str, list[np.ndarray]]):
    """Write an archive of the safe layout, without pickles.

    Args:
        path: `.npz` file to write.
        entries: For each key one array of numbers or text a sequence, which agree in all but the first axis.

    Raises:
        ValueError: If the entries of a key do not fit each other.
    """
    members = {}
    for key, values in entries.items():
        arrays = [np.atleast_1d(_as_entry(value, key)) for value in values]
        kinds = {(array.dtype.kind in "U", array.shape[1:]) for array in arrays}
        if len(kinds) != 1:
            raise ValueError(f"`entries[{key!r}]` must agree in all but the first axis, got {sorted(kinds)}.")
        rows = np.concatenate(arrays)
        members[key] = np.char.encode(rows, "utf-8") if rows.dtype.kind == "U" else rows
        members[key + ROWS] = np.array([len(array) for array in arrays], dtype=np.int64)
    np.savez_compressed(Path(path), **members)


def convert_sequence_archive(source: str | PathLike, target: str | PathLike):
    """Write the safe layout of a released archive; errors as of `read_sequence_archive` and `write_sequence_archive`."""
    write_sequence_archive(target, read_sequence_archive(source))


__all__ = [
    "convert_sequence_archive",
    "read_object_archive",
    "read_sequence_archive",
    "unpickle_dict",
    "write_sequence_archive",
]
