"""Reads the pickled batches of CIFAR-10 and downsampled ImageNet, executing no code of theirs."""

from __future__ import annotations

import mmap
import pickle
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

import numpy as np

_LARGE = 2**20


def _number_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    # From the name alone: a pickle may have changed what else there is, fields and sizes.
    plain = np.dtype(dtype.str)
    if plain.kind not in "biuf":
        raise pickle.UnpicklingError(f"it holds {plain.name} values")
    return plain


class _Array(np.ndarray[Any, Any]):
    """An array that takes nothing but numbers: objects could be made of any bytes in memory."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran_order, content = state
        super().__setstate__((version, shape, _number_type(dtype), fortran_order, content))


def _reconstruct(kind: str, shape: tuple[int, ...], letter: bytes) -> _Array:
    return _Array(0, np.uint8)


def _from_buffer(content: bytes, dtype: np.dtype[Any], shape: Any, order: Any) -> Any:
    return np.frombuffer(content, _number_type(dtype)).reshape(shape, order=order)


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    return np.frombuffer(content, _number_type(dtype), count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Bytes of Python 2, as protocol 2 writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for text in {encoding}")
    return text.encode("latin1")


# What arrays of numbers are pickled with; NumPy 1 names numpy.core what NumPy 2 names numpy._core.
_ALLOWED: dict[str, Any] = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": np.dtype,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
}


class _Reader(BufferedReader):
    """Reads large parts into memory of their own, which goes back to the system with them."""

    def read(self, size: int | None = -1, /) -> Any:
        """Returns so many bytes, or what is left."""
        if size is None or size < _LARGE:
            return super().read(size)
        content = mmap.mmap(-1, size)
        return memoryview(content)[: self.readinto(content)]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if full not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[full]


def read_pickle(path: Path) -> dict[str, Any]:
    """Returns a pickled dictionary of arrays, lists, numbers and texts.

    Args:
        path: A file written by Python 2 or 3.

    Returns:
        The dictionary, with its keys as text.

    Raises:
        ValueError: If it is truncated, is no such dictionary, or asks for anything but arrays.
        FileNotFoundError: If there is no such file.
    """
    try:
        with _Reader(FileIO(path)) as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except FileNotFoundError:
        raise
    except Exception as error:  # Damaged pickles raise whatever their opcodes run into.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no pickle of arrays ({reason}); replace it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary")
    return {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in content.items()}
