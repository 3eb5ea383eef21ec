"""Pictures as files, and pictures of points: a raster, without a drawing library."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

__all__ = ["of_points", "plane", "save_png", "scatter", "surroundings"]

Colour = tuple[int, int, int]
BLUE: Colour = (31, 119, 180)
ORANGE: Colour = (255, 127, 14)
_FRAME = 160
_MARGIN = 0.1


def save_png(image: Tensor, path: Path) -> None:
    """Write a uint8 image; a run killed on the way leaves no half-written file.

    Args:
        image: ``(1, H, W)`` grey or ``(3, H, W)`` RGB, on any device.
        path: Where to; folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    pixels = image.permute(1, 2, 0).squeeze(2).cpu().numpy()
    Image.fromarray(pixels).save(unfinished, format="PNG")
    os.replace(unfinished, path)


def of_points(data: Any) -> bool:
    """Whether a data module's examples are points ``(D,)``."""
    return len(getattr(data, "image_shape", None) or ()) == 1


def plane(data: Any, points: Tensor) -> Tensor:
    """Points ``(N, D)`` in the plane that shows most of them, ``(N, 2)``, on the CPU.

    It is that of the first two coordinates, of the points that ``data.unrotated`` has turned into
    it if there is such a method. A line of points lies in the middle of the plane.
    """
    points = points.detach().float().cpu()
    if hasattr(data, "unrotated"):
        points = data.unrotated(points)
    return torch.nn.functional.pad(points, (0, 1))[:, :2] if points.shape[1] == 1 else points[:, :2]


def surroundings(points: Tensor) -> tuple[float, float, float]:
    """The square around points ``(N, 2)``: the two coordinates of its middle, and half its side."""
    low, high = points.amin(0), points.amax(0)
    middle = (low + high) / 2
    half = (high - low).max() / 2 * (1 + _MARGIN)
    return float(middle[0]), float(middle[1]), float(half) or 1.0


def scatter(
    sets: Sequence[tuple[Tensor, Colour]],
    square: tuple[float, float, float],
    *,
    pixels: int = 500,
    radius: float = 2.3,
    opacity: float = 0.7,
) -> Tensor:
    """Draw sets of points, each over those before; what lies outside of the square is not seen.

    Args:
        sets: Points ``(N, 2)``, the second coordinate upwards, and their colour.
        square: Its middle and half its side; see :func:`surroundings`.
        pixels: Width and height of the picture.
        radius: Of a point, in pixels.
        opacity: Of a point.

    Returns:
        uint8 ``(3, pixels, pixels)``, white where there is nothing.

    Example:
        >>> picture = scatter([(torch.zeros(1, 2), ORANGE)], (0.0, 0.0, 1.0), pixels=5, radius=0.5)
        >>> picture[:, 2, 2]
        tensor([255, 165,  86], dtype=torch.uint8)
    """
    picture = torch.full((3, pixels, pixels), 255.0)
    for points, colour in sets:
        hits = _hits(points, square, pixels, radius)
        share = 1 - (1 - opacity) ** hits
        picture += share * (torch.tensor(colour)[:, None, None] - picture)
    edges = picture[:, [0, -1]], picture[:, :, [0, -1]]
    picture[:, [0, -1]], picture[:, :, [0, -1]] = (edge.clamp_max(_FRAME) for edge in edges)
    return picture.round().to(torch.uint8)


def _hits(points: Tensor, square: tuple[float, float, float], pixels: int, radius: float) -> Tensor:
    """How many points cover each pixel, ``(pixels, pixels)``."""
    x, y, half = square
    unit = (points - torch.tensor([x, y])) / (2 * half) + 0.5
    columns, rows = (unit * pixels).where(unit.isfinite(), -1e6).clamp(-1e6, 1e6).floor().long().T
    rows = pixels - 1 - rows
    reach = torch.arange(-int(radius), int(radius) + 1)
    down, right = torch.meshgrid(reach, reach, indexing="ij")
    inside = down**2 + right**2 <= radius**2
    rows = (rows[:, None] + down[inside]).flatten()
    columns = (columns[:, None] + right[inside]).flatten()
    seen = (rows >= 0) & (rows < pixels) & (columns >= 0) & (columns < pixels)
    cells = rows[seen] * pixels + columns[seen]
    return torch.bincount(cells, minlength=pixels**2).view(pixels, pixels)
