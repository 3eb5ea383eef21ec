"""Reads the pickled batches of CIFAR-10 and downsampled ImageNet, executing no code of theirs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

try:
    from numpy._core import multiarray, numeric
except ImportError:  # NumPy 1
    from numpy.core import multiarray, numeric  # type: ignore[no-redef]


def _encode(text: str, encoding: str) -> bytes:
    """Bytes of Python 2, as protocol 2 writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for text in {encoding}")
    return text.encode("latin1")


# What arrays of numbers are pickled with; NumPy 1 names numpy.core what NumPy 2 names numpy._core.
_ALLOWED: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy._core.multiarray._reconstruct": multiarray._reconstruct,
    "numpy._core.multiarray.scalar": multiarray.scalar,
    "numpy._core.numeric._frombuffer": numeric._frombuffer,  # type: ignore[attr-defined]
    "_codecs.encode": _encode,
}


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
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except FileNotFoundError:
        raise
    except Exception as error:  # Damaged pickles raise whatever their opcodes run into.
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no pickle of arrays ({reason}); replace it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary")
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in content.items()}
