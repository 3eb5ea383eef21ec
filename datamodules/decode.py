"""From an image file of any kind to 8-bit pixels of the size asked for."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def open_image(source: Path | IO[bytes], channels: int = 3) -> Image.Image:
    """Decodes an image file.

    The rotation that EXIF asks for is done; 16-bit grey keeps its upper 8 bits; palettes and CMYK
    become RGB; transparency is dropped; of several frames the first counts.

    Args:
        source: The file.
        channels: 3 for RGB, 1 for grey.

    Returns:
        A picture of mode ``RGB`` or ``L``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, or a truncated one.
    """
    try:
        with Image.open(source) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in _WIDE:
                upright = Image.fromarray(_upper_bits(np.asarray(upright)))
            elif upright.mode == "F":
                raise ValueError("its pixels are floats, of unknown range")
            elif "transparency" in upright.info:
                upright = upright.convert("RGBA")
            return upright.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source} is missing") from error
    except MemoryError:
        raise
    except Exception as error:  # Damaged files raise whatever their decoders run into.
        name = source if isinstance(source, Path) else getattr(source, "name", source)
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be decoded ({reason})") from error


def _upper_bits(wide: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    if wide.min() < 0 or wide.max() > 0xFFFF:
        raise ValueError(f"its pixels are {wide.min()} to {wide.max()}, more than 16 bits hold")
    return (wide >> 8).astype(np.uint8)


def resize_shorter_side(
    image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Scales a picture, antialiased, so that its shorter side has ``size`` pixels."""
    width, height = image.size
    shorter = min(width, height)
    if shorter == size:
        return image
    shape = (max(size, round(width * size / shorter)), max(size, round(height * size / shorter)))
    return image.resize(shape, resampling)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Cuts the central ``size`` x ``size`` pixels out; half pixels go to the left and up."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Returns the pixels of a picture, uint8 ``(C, H, W)``."""
    array = np.asarray(image)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
