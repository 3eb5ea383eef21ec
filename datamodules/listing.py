"""Which files of a folder are images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_images(folder: Path, others: Counter[str] | None = None) -> list[str]:
    """Returns the images in a folder and below it, named relative to it, sorted.

    Links are followed, but each folder counts once: at its own place if that is below ``folder``,
    and else at the first link to it. A link to a folder above is not followed.

    Args:
        folder: Where to look.
        others: Counts the other files by their endings.

    Raises:
        OSError: If a folder cannot be read.
    """
    others = Counter() if others is None else others
    seen = set(Path(os.path.realpath(folder)).parents)
    found, places, links = [], [folder], list[Path]()
    while places or links:
        place = places.pop() if places else links.pop(0)
        real = Path(os.path.realpath(place))
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            shown = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        for entry in shown:
            if _is_folder(entry):
                (links if entry.is_symlink() else places).append(place / entry.name)
            elif entry.name.lower().endswith(EXTENSIONS):
                found.append((place / entry.name).relative_to(folder).as_posix())
            else:
                others[Path(entry.name).suffix.lower() or "none"] += 1
    return sorted(found)


def find_classes(folder: Path) -> list[str]:
    """Returns the folders of a folder, but for links to itself or to a folder above it."""
    real = Path(os.path.realpath(folder))
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _is_folder(entry)
            and not entry.name.startswith(".")
            and Path(os.path.realpath(entry.path)) not in (real, *real.parents)
        )


def tell_of(others: Counter[str], where: str) -> None:
    """Says in one line how many files are left out for their endings."""
    if others:
        rank_zero_info(
            f"{where}: files left out, which do not end like images: {others.total()}"
            f" ({endings(others)})"
        )


def endings(others: Counter[str]) -> str:
    """Returns endings and their numbers, such as ``.txt 3, .jfif 1``."""
    most = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{ending} {count}" for ending, count in most[:5]]
    return ", ".join([*named, "..."] if len(others) > 5 else named)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False
