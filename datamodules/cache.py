"""Arrays of decoded images on disk: made once, mapped by every later run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from lightning_igm.data.decode import without_pillows_limit

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
    decode: Callable[[Item], Image],
    shape: tuple[int, int, int],
    argument: str,
    about: Mapping[str, Any] | None = None,
    skip: bool = False,
) -> None:
    """Writes the decoded items to one uint8 array ``(N, *shape)``, unless that is done.

    Items are decoded in parallel threads and written in order by `write_array`.

    Args:
        path: The ``.npy`` file.
        items: What to decode.
        decode: Returns one image ``shape``.
        shape: ``(C, H, W)``.
        argument: Which argument sets the folder, for messages; e.g. ``cache_dir='data'``.
        about: Further content of the ``.json``; beside ``skipped``, the positions of the items that
            were left out, and ``reasons``, what was wrong with each.
        skip: Whether an item is left out that `decode` raises a ValueError or FileNotFoundError
            for.

    Raises:
        OSError: If the folder cannot be written to, or the disk is full.
        ValueError: If no item is left.
    """
    content: dict[str, Any] = {**(about or {}), "skipped": [], "reasons": []}
    with closing(_decoded(path.stem, items, decode, skip, content)) as images:
        write_array(path, images, len(items), shape, argument, content)


def write_array(
    path: Path,
    images: Iterable[Image],
    count: int,
    shape: tuple[int, int, int],
    argument: str,
    about: Mapping[str, Any],
) -> None:
    """Writes images to one uint8 array ``(N, *shape)``, unless that is done.

    The array gets its name only when it is complete, so that nothing ever reads half of one; a
    second process waits for the first. A ``.json`` beside it says what it holds.

    Args:
        path: The ``.npy`` file.
        images: Each ``shape``, or several at once ``(n, *shape)``; untouched if the array exists.
        count: About how many they are; as much space must be free.
        shape: ``(C, H, W)``.
        argument: Which argument sets the folder, for messages; e.g. ``cache_dir='data'``.
        about: Further content of the ``.json``, read when the images have come to their end.

    Raises:
        OSError: If the folder cannot be written to, or the disk is full.
    """
    if path.is_file():
        return
    with _clear_errors(path, argument):
        _make_folder(path.parent)
        with _locked(path):
            if not path.is_file():
                _write(path, images, count, shape, about)


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
    _check_there(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy raises whatever it runs into in a damaged header.
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}); delete it") from error
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
        FileNotFoundError: If there is no such array.
    """
    _check_there(path)
    about = path.with_suffix(".json")
    try:
        return dict(json.loads(about.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{about} is missing or damaged ({error}); delete {path}") from error


def load_skipped(path: Path, allowed: bool) -> list[int]:
    """Returns the positions of the items that `prepare` left out of an array, and warns of them.

    Raises:
        ValueError: If there are such items and that is not allowed.
    """
    about = load_about(path)
    skipped: list[int] = about["skipped"]
    if skipped:
        some = "; ".join(about["reasons"][:3])
        text = f"{len(skipped)} of {about['count'] + len(skipped)} images cannot be used: {some}"
        if not allowed:
            raise ValueError(f"{text}; on_error='skip' leaves them out")
        more = "; ..." if len(skipped) > 3 else ""
        rank_zero_warn(f"{text}{more}; left out, {path.with_suffix('.json')} lists them")
    return skipped


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; call prepare_data() to make it")


def _write(
    path: Path,
    images: Iterable[Image],
    count: int,
    shape: tuple[int, int, int],
    about: Mapping[str, Any],
) -> None:
    size, free = count * prod(shape), shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(f"needs {_gigabytes(size)} and the disk has {_gigabytes(free)} free")
    partial, description = path.with_suffix(".partial"), path.with_suffix(".json.partial")
    try:
        with partial.open("wb") as file:
            start, written = _header(file, count, shape), 0
            for image in images:
                file.write(np.ascontiguousarray(_checked(image, shape)).data)
                written += image.size // prod(shape)
                del image  # Or it would stay in memory while the next one is made.
            file.seek(0)
            if _header(file, written, shape) != start:
                raise RuntimeError("NumPy wrote headers of two lengths")
            file.flush()
            os.fsync(file.fileno())
        lines = (
            f"{json.dumps(k)}: {json.dumps(v)}" for k, v in {"count": written, **about}.items()
        )
        description.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        os.replace(description, path.with_suffix(".json"))
        os.replace(partial, path)
    finally:
        for unfinished in (partial, description):
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def _header(file: Any, count: int, shape: tuple[int, int, int]) -> int:
    """Writes the header of a .npy file and returns its length, the same for any smaller count."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return int(file.tell())


def _decoded(
    name: str,
    items: Sequence[Item],
    decode: Callable[[Item], Image],
    skip: bool,
    about: dict[str, Any],
) -> Generator[Image, None, None]:
    def attempt(item: Item) -> Image | str:
        try:
            return decode(item)
        except (ValueError, FileNotFoundError) as error:
            if not skip:
                raise
            return str(error)

    bar = tqdm(total=len(items), desc=f"Preparing {name}")
    # Pillow lets go of the interpreter while it decodes, so threads run in parallel.
    with without_pillows_limit(), ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for start in range(0, len(items), _CHUNK):
            chunk = pool.map(attempt, items[start : start + _CHUNK])
            for position, result in enumerate(chunk, start):
                bar.update()
                if isinstance(result, str):
                    about["skipped"].append(position)
                    about["reasons"].append(result)
                else:
                    yield result
    if len(about["skipped"]) == len(items):
        first = "".join(about["reasons"][:1])
        raise ValueError(f"none of the {len(items)} images can be used; {first}")


def _checked(image: Image, shape: tuple[int, int, int]) -> Image:
    if image.shape[-3:] != shape or image.ndim > 4 or image.dtype != np.uint8:
        raise ValueError(f"decoded {image.dtype} {image.shape}, expected uint8 {shape}")
    return image


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise OSError(f"{folder} cannot be made") from error


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
        name = argument.partition("=")[0]
        raise OSError(
            f"{argument}: cannot write {path} ({reason}); data.{name} sets another folder"
        ) from error
