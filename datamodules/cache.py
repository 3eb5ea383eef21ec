"""Arrays of decoded images on disk: made once, mapped by every later run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from tqdm import tqdm

Image = npt.NDArray[np.uint8]
Item = TypeVar("Item")

_CHUNK = 1024  # Items decoded before they are written: what a preparation holds in memory.


def cache_path(folder: Path, name: str, preparation: Mapping[str, Any]) -> Path:
    """Returns the file of an array; another preparation has another file.

    Args:
        folder: Where the caches are.
        name: Begins the file's name.
        preparation: All that the array depends on, as JSON can hold it.

    Example:
        >>> cache_path(Path("data"), "faces-64", {"crop": 148}).name
        'faces-64-4387fe88.npy'
    """
    text = json.dumps(preparation, sort_keys=True)
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.npy"


def prepare(
    path: Path,
    items: Sequence[Item],
    decode: Callable[[Item], Image | None],
    shape: tuple[int, int, int],
    argument: str,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes the decoded items to one uint8 array ``(N, *shape)``, unless that is done.

    Items are decoded in parallel threads and written in order. The array gets its name only when it
    is complete, so that nothing ever reads half of one; a second process waits for the first. A
    ``.json`` beside it says what it holds.

    Args:
        path: The ``.npy`` file.
        items: What to decode.
        decode: Returns one image ``shape``, or None to leave the item out.
        shape: ``(C, H, W)``.
        argument: Which argument sets the folder, for messages; e.g. ``cache_dir='data'``.
        about: Further content of the ``.json``; beside ``skipped``, the positions of the items that
            were left out.

    Raises:
        OSError: If the folder cannot be written to, or the disk is full.
        ValueError: If no item is left.
    """
    if path.is_file():
        return
    with _clear_errors(path, argument):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.is_file():
                _write(path, items, decode, shape, argument, dict(about or {}))


def load_array(path: Path, shape: tuple[int, ...] | None = None) -> Tensor:
    """Maps a uint8 array of a ``.npy`` file; the system keeps in memory what fits there.

    Processes that map the same file share the memory. The tensor must not be written to.

    Args:
        path: The file.
        shape: Expected shape; None for any.

    Raises:
        ValueError: If the file holds something else, or is damaged.
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; call prepare_data() to make it")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
    if array.dtype != np.uint8 or (shape is not None and array.shape != shape):
        wanted = "uint8" if shape is None else f"uint8 {shape}"
        raise ValueError(f"{path} holds {array.dtype} {array.shape}, expected {wanted}; delete it")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def load_about(path: Path) -> dict[str, Any]:
    """Returns what the ``.json`` beside an array says.

    Raises:
        ValueError: If it is missing or damaged.
    """
    about = path.with_suffix(".json")
    try:
        content = json.loads(about.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{about} is missing or damaged ({error}); delete {path}") from error
    return dict(content)


def _write(
    path: Path,
    items: Sequence[Item],
    decode: Callable[[Item], Image | None],
    shape: tuple[int, int, int],
    argument: str,
    about: dict[str, Any],
) -> None:
    size, free = len(items) * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(f"needs {_gigabytes(size)} and the disk has {_gigabytes(free)} free")
    partial, skipped = path.with_suffix(".partial"), []
    try:
        with partial.open("wb") as file:
            start = _header(file, len(items), shape)
            for position, image in enumerate(_decoded(items, decode, path.stem)):
                if image is None:
                    skipped.append(position)
                else:
                    file.write(_checked(image, shape).tobytes())
            if len(skipped) == len(items):
                raise ValueError(f"{argument}: none of the {len(items)} images can be used")
            file.seek(0)
            if _header(file, len(items) - len(skipped), shape) != start:
                raise RuntimeError("NumPy wrote headers of two lengths")
            file.flush()
            os.fsync(file.fileno())
        about = {"count": len(items) - len(skipped), **about, "skipped": skipped}
        description = path.with_suffix(".json.partial")
        description.write_text(json.dumps(about, indent=1) + "\n")
        os.replace(description, path.with_suffix(".json"))
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _header(file: Any, count: int, shape: tuple[int, int, int]) -> int:
    """Writes the header of a .npy file and returns its length, the same for any smaller count."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return int(file.tell())


def _decoded(
    items: Sequence[Item], decode: Callable[[Item], Image | None], name: str
) -> Iterator[Image | None]:
    # Pillow lets go of the interpreter while it decodes, so threads run in parallel.
    bar = tqdm(total=len(items), desc=f"Preparing {name}")
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for start in range(0, len(items), _CHUNK):
            for image in pool.map(decode, items[start : start + _CHUNK]):
                bar.update()
                yield image


def _checked(image: Image, shape: tuple[int, int, int]) -> Image:
    if image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"decoded {image.dtype} {image.shape}, expected uint8 {shape}")
    return image


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        rank_zero_info(f"Waiting for another process that prepares {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _clear_errors(path: Path, argument: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # An item's: the folder was made.
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{argument}: cannot write {path} ({reason})") from error
