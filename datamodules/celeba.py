"""CelebA at 64x64 pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datamodules.images import ImageDataModule

_SIZE = 64
_ORIGINAL = (178, 218)  # width, height
_CROP = (15, 40, 163, 188)  # left, top, right, bottom
_TRAIN, _TEST = 0, 2  # as numbered in list_eval_partition.txt


class CelebADataModule(ImageDataModule):
    """The aligned faces of CelebA: rows 40:188 and columns 15:163, resized to 64x64 pixels.

    Deep Learning Face Attributes in the Wild (Liu et al., 2015, https://arxiv.org/abs/1411.7766):
    162,770 training and 19,962 test images. `prepare_data` decodes them once, into
    ``celeba/img_align_celeba_64.npy`` under ``root``; the data may not be redistributed, so nothing
    is downloaded.

    Args:
        root: Folder that holds ``celeba/img_align_celeba/*.jpg`` and
            ``celeba/list_eval_partition.txt``.
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what it should.
        FileNotFoundError: If files are missing.

    Example:
        >>> CelebADataModule(root="data", batch_size=200).image_shape
        (3, 64, 64)
    """

    name = "celeba"

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 200,
        seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        self.root = Path(root)
        self.image_shape = (3, _SIZE, _SIZE)

    @property
    def cache(self) -> Path:
        """The file of the decoded images: training images first, then test images."""
        return self.root / "celeba" / "img_align_celeba_64.npy"

    def prepare_data(self) -> None:
        """Decodes the images into the cache, if there is none yet."""
        if self.cache.is_file():
            return
        train, test = self._file_names()
        # Under the final name only once complete, so that a killed run leaves nothing to trip over.
        partial = self.cache.with_name(f"{self.cache.name}.{os.getpid()}.partial")
        try:
            shape = (len(train) + len(test), 3, _SIZE, _SIZE)
            images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            folder = self.root / "celeba" / "img_align_celeba"
            for i, name in enumerate(tqdm(train + test, desc="Decoding CelebA")):
                images[i] = _decode(folder / name)
            images.flush()
            os.replace(partial, self.cache)
        finally:
            partial.unlink(missing_ok=True)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images of the cache."""
        train, test = self._file_names()
        if not self.cache.is_file():
            raise FileNotFoundError(f"{self.cache} is missing; call prepare_data() to make it")
        try:
            images = np.load(self.cache, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{self.cache} is damaged ({error}); delete it") from error
        expected = (len(train) + len(test), 3, _SIZE, _SIZE)
        if images.shape != expected or images.dtype != np.uint8:
            raise ValueError(
                f"{self.cache} holds {images.dtype} {images.shape}, expected uint8 {expected};"
                " delete it to have it made again"
            )
        both = torch.from_numpy(images)
        return both[: len(train)], both[len(train) :]

    def _file_names(self) -> tuple[list[str], list[str]]:
        """Returns the names of the training and the test images."""
        path = self.root / "celeba" / "list_eval_partition.txt"
        if not path.is_file():
            raise FileNotFoundError(
                f"root={str(self.root)!r}: {path} is missing; put the original"
                " list_eval_partition.txt and img_align_celeba/ there"
            )
        names: dict[int, list[str]] = {_TRAIN: [], 1: [], _TEST: []}
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            match line.split():
                case [name, "0" | "1" | "2" as split]:
                    names[int(split)].append(name)
                case _:
                    raise ValueError(f"{path}, line {number}: {line!r} is not 'NAME 0', 1 or 2")
        return names[_TRAIN], names[_TEST]


def _decode(path: Path) -> Tensor:
    """Returns one face, uint8 ``(3, 64, 64)``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; list_eval_partition.txt names it")
    try:
        with Image.open(path) as image:
            if image.size != _ORIGINAL:
                raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, expected 178x218")
            face = image.convert("RGB").crop(_CROP)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no aligned CelebA image ({error})") from error
    # Pillow's filters widen with the scale: this is the antialiased resize.
    small = face.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)
