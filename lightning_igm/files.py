"""Files that are written atomically."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["LOCK", "remove_unfinished", "replacing"]

LOCK = ".lock"
"""Name of the file that tells a process that a folder is in use."""


@contextmanager
def replacing(path: Path, mode: str = "w", keep: Path | None = None) -> Iterator[IO[Any]]:
    """Write a file that takes the place of another once it is whole and on the disk.

    A process that is killed on the way, or a disk that is full, leaves the other as it was.

    Args:
        path: Of the file; folders are made.
        mode: ``w`` or ``wb``.
        keep: Under this name the other is kept.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with replacing(path) as file:
        ...     _ = file.write("1 2 3")
        >>> path.read_text()
        '1 2 3'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        # Line ends as they are given: a csv writer makes its own.
        with unfinished.open(mode, newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder and the folders directly in it.

    Those that are locked by themselves are other runs'.
    """
    for path in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):
        if path.parent == folder or not (path.parent / LOCK).exists():
            path.unlink(missing_ok=True)
