"""From an image file of any kind to 8-bit pixels of the size asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

MAX_PIXELS = 178_956_970  # Pillow's own limit.
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_DARK = 4096  # The upper 8 of 16 bits make black of values below 256 and nearly so below this.
_BITS_PER_SAMPLE = 258  # A tag of TIFF.


def open_image(
    source: Path | IO[bytes],
    channels: int = 3,
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decodes an image file.

    The rotation that EXIF asks for is done; grey of more than 8 bits keeps the upper 8 of those
    that count; palettes and CMYK become RGB; transparency is dropped; of several frames the first
    counts.

    Args:
        source: The file.
        channels: 3 for RGB, 1 for grey.
        bits: How many bits of wider grey count: white is ``2**bits - 1``. None for what the file
            says, and for 16 where it does not say and a value is 4096 or more.
        max_pixels: Largest width times height.

    Returns:
        A picture of mode ``RGB`` or ``L``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, a truncated one, too large, or of unknown range.
    """
    try:
        with Image.open(source) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(
                    f"its {image.width * image.height:,} pixels are more than max_pixels, which is"
                    f" {max_pixels:,}; raise that, or make the image smaller"
                )
            known, wide_colour = bits or _stated_bits(image), ";16" in _coding(image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode in _WIDE:
                return _convert(Image.fromarray(_upper_bits(np.asarray(upright), known)), channels)
            if upright.mode == "F":
                values = np.asarray(upright)
                raise ValueError(
                    "its pixels are floats, of unknown range"
                    f" ({values.min():g} to {values.max():g}); convert it to 8 bits"
                )
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")
            picture = _convert(upright, channels)
            # Pillow keeps no more of them than their upper bits.
            if wide_colour and bits != 16 and np.asarray(picture).max() < _DARK >> 8:
                raise ValueError(
                    f"its 16-bit colours are below {_DARK}, almost black; convert it to 8 bits, or"
                    " set bits=16 to take them so"
                )
            return picture
    except FileNotFoundError as error:
        linked = isinstance(source, Path) and source.is_symlink()
        problem = "is a link to nothing" if linked else "is missing"
        raise FileNotFoundError(f"{source} {problem}") from error
    except MemoryError:
        raise
    except Exception as error:  # Damaged files raise whatever their decoders run into.
        name = source if isinstance(source, Path) else getattr(source, "name", source)
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be decoded ({reason})") from error


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Has Pillow neither warn of large images nor refuse them; `open_image` has its own limit."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _stated_bits(image: Image.Image) -> int | None:
    """Returns how many bits of grey count by what the file says, or None if it says nothing."""
    if image.format == "TIFF":
        bits = int(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0])
        return bits if 8 < bits < 16 else None
    # Pillow has scaled these by the largest value that the file names.
    return 16 if "'ppm" in _coding(image) else None


def _coding(image: Image.Image) -> str:
    """Returns how an image that is not decoded yet will be; for example ``I;16B`` by ``zip``."""
    return str(getattr(image, "tile", ""))


def _upper_bits(wide: npt.NDArray[np.integer[Any]], bits: int | None) -> npt.NDArray[np.uint8]:
    low, high = int(wide.min()), int(wide.max())
    if bits is None and low >= 0 and 0 < high < _DARK:
        raise ValueError(
            f"its pixels are {low} to {high} and the file does not say how many bits count; set"
            f" bits={max(8, high.bit_length())}, or bits=16 if it is that dark"
        )
    bits = bits or 16
    if low < 0 or high >= 1 << bits:
        raise ValueError(
            f"its pixels are {low} to {high}; with bits={bits} they must be 0 to {(1 << bits) - 1}"
        )
    return (wide >> (bits - 8)).astype(np.uint8)


def _convert(picture: Image.Image, channels: int) -> Image.Image:
    return picture.convert("L" if channels == 1 else "RGB")


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
