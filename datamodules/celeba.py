"""CelebA at 64x64 and 160x160 pixels."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lightning_igm.data.cache import cache_path, load_array, prepare
from lightning_igm.data.decode import centre_crop, open_image, pixels
from lightning_igm.data.images import ImageDataModule

_ORIGINAL = (178, 218)  # width, height
_CROP = (15, 40, 163, 188)  # left, top, right, bottom
_STORED = {64: 64, 160: 178}
_TRAIN, _TEST = 0, 2  # as numbered in list_eval_partition.txt
_ATTRIBUTES = 40


class CelebADataModule(ImageDataModule):
    """The aligned faces of CelebA at 64x64 pixels, or at 160x160 pixels with augmentation.

    Deep Learning Face Attributes in the Wild (Liu et al., 2015, https://arxiv.org/abs/1411.7766):
    162,770 training and 19,962 test images. Size 64 is rows 40:188 and columns 15:163, resized with
    antialiasing. Size 160 is the preparation of On gradient regularizers for MMD GANs (Arbel et
    al., 2018, https://arxiv.org/abs/1805.11565): of the central 178x178 pixels, training images are
    flipped with probability 1/2 and cut to a random 160x160 pixels, on the device, and so they are
    scored against, as in the paper's code; test images are cut to their centre.

    `prepare_data` decodes the images once, into one array (2.2 GB at 64, 17.4 GB at 160 pixels),
    which is mapped rather than read; the images are not needed any more then. They may not be
    redistributed, so nothing is downloaded.

    Args:
        root: Folder that holds ``celeba/list_eval_partition.txt`` and
            ``celeba/img_align_celeba/*.jpg``, or ``celeba/img_align_celeba.zip`` as it was
            downloaded; and ``celeba/list_attr_celeba.txt``, if labels are wanted.
        size: 64 or 160.
        cache_dir: Folder of the array; None for ``celeba`` under ``root``.
        batch_size: Images per batch and process.
        seed: Seed of the training order and of the augmentation.
        value_range: Range of the float images.

    Attributes:
        attribute_names: The 40 attributes; None without ``list_attr_celeba.txt``.
        train_labels: Whether each image has each attribute, int64 ``(N, 40)`` of 0 and 1, or None.
        test_labels: The same of the test images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what it should.
        FileNotFoundError: If files are missing.
        OSError: If the array cannot be written.

    Example:
        >>> CelebADataModule(root="data", batch_size=200).image_shape
        (3, 64, 64)
        >>> faces = torch.zeros(2, 3, 178, 178, dtype=torch.uint8)
        >>> CelebADataModule(size=160).transform(faces, torch.rand(2, 3)).shape
        torch.Size([2, 3, 160, 160])
    """

    name = "celeba"
    attribute_names: list[str] | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None

    def __init__(
        self,
        root: str | Path = "data",
        size: int = 64,
        cache_dir: str | Path | None = None,
        batch_size: int = 200,
        seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        if size not in _STORED:
            raise ValueError(f"size={size} must be 64 or 160")
        self.root = Path(root)
        self.size = size
        self.cache_dir = self._folder if cache_dir is None else Path(cache_dir)
        self.image_shape = (3, size, size)
        self.random_numbers = 3 if size == 160 else 0

    @property
    def cache(self) -> Path:
        """The file of the decoded images: training images first, then test images."""
        preparation = {
            "crop": _CROP if self.size == 64 else "centre",
            "size": _STORED[self.size],
            "partition": hashlib.sha256(self._partition_text().encode()).hexdigest(),
        }
        return cache_path(self.cache_dir, f"celeba-{self.size}", preparation)

    def prepare_data(self) -> None:
        """Decodes the images into the cache, if there is none yet."""
        cache = self.cache
        if cache.is_file():
            return
        names, splits = self._partition()
        wanted = [name for split in (_TRAIN, _TEST) for name in names[splits == split]]
        with _opened(self._folder) as find:
            prepare(
                cache,
                wanted,
                lambda name: _decode(find(name), self.size),
                (3, _STORED[self.size], _STORED[self.size]),
                f"cache_dir={str(self.cache_dir)!r}",
            )

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Maps the images of the cache; sets the labels if there are any."""
        names, splits = self._partition()
        train, test = splits == _TRAIN, splits == _TEST
        count, size = int(train.sum()), _STORED[self.size]
        images = load_array(self.cache, (count + int(test.sum()), 3, size, size))
        attributes = self._folder / "list_attr_celeba.txt"
        if attributes.is_file():
            self.attribute_names, labels = _read_attributes(attributes, names.tolist())
            self.train_labels = torch.from_numpy(labels[train]).long()
            self.test_labels = torch.from_numpy(labels[test]).long()
        return images[:count], images[count:]

    def transform(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        """Returns 64x64 images as they are; flips and cuts larger ones, or cuts out their centre.

        Args:
            images: uint8 ``(B, 3, 64, 64)`` or ``(B, 3, 178, 178)``.
            numbers: ``(B, 3)``, for flip, top and left edge; None for the centre, not flipped.
        """
        margin = images.shape[-1] - self.size
        if margin == 0:
            return images
        if numbers is None:
            start, stop = margin // 2, margin // 2 + self.size
            return images[..., start:stop, start:stop]
        pixel = torch.arange(self.size, device=images.device)
        top, left = (numbers[:, 1:, None] * (margin + 1)).long().unbind(1)
        rows, columns = top + pixel, left + pixel
        mirrored = images.shape[-1] - 1 - columns
        columns = torch.where(numbers[:, :1] < 0.5, mirrored, columns)
        places = rows[:, :, None] * images.shape[-1] + columns[:, None, :]
        flat = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, flat).view(*images.shape[:2], self.size, self.size)

    @property
    def _folder(self) -> Path:
        return self.root / "celeba"

    def _partition_text(self) -> str:
        path = self._folder / "list_eval_partition.txt"
        if not path.is_file():
            raise FileNotFoundError(
                f"root={str(self.root)!r}: {path} is missing; put the original"
                " list_eval_partition.txt and img_align_celeba/ or img_align_celeba.zip there"
            )
        return path.read_text(errors="replace")

    def _partition(self) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.uint8]]:
        """Returns the names of all images, and the part of the data that each belongs to."""
        names, splits = [], []
        for number, line in enumerate(self._partition_text().splitlines(), start=1):
            match line.split():
                case [name, "0" | "1" | "2" as split]:
                    names.append(name)
                    splits.append(int(split))
                case _:
                    path = self._folder / "list_eval_partition.txt"
                    raise ValueError(
                        f"{path}, line {number}: {line[:60]!r} is not 'NAME 0', 1 or 2"
                    )
        return np.array(names), np.array(splits, np.uint8)


@contextmanager
def _opened(folder: Path) -> Iterator[Callable[[str], Path | IO[bytes]]]:
    """Yields what finds an image by its name, unpacked or in the archive."""
    images, packed = folder / "img_align_celeba", folder / "img_align_celeba.zip"
    if images.is_dir():
        yield lambda name: images / name
        return
    if not packed.is_file():
        raise FileNotFoundError(
            f"{images} and {packed.name} are missing; put the original archive there, or unpack it"
        )
    try:
        archive = ZipFile(packed)
    except (OSError, BadZipFile) as error:
        raise ValueError(f"{packed} is no complete zip file ({error}); replace it") from error
    lock = Lock()  # Unpacking takes a small part of the time of decoding.

    def unpack(name: str) -> IO[bytes]:
        path = packed / "img_align_celeba" / name
        try:
            with lock:
                image = BytesIO(archive.read(f"img_align_celeba/{name}"))
        except KeyError as error:
            raise FileNotFoundError(f"{path} is missing") from error
        except (OSError, RuntimeError, BadZipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked ({error})") from error
        image.name = str(path)
        return image

    with archive:
        yield unpack


def _decode(source: Path | IO[bytes], size: int) -> npt.NDArray[np.uint8]:
    """Returns one face as it is stored for a size, uint8 ``(3, H, W)``."""
    face = open_image(source)
    if face.size != _ORIGINAL:
        path = source if isinstance(source, Path) else source.name
        width, height = face.size
        raise ValueError(f"{path} has {width}x{height} pixels, expected 178x218 of aligned images")
    if size == 160:
        return pixels(centre_crop(face, _STORED[size]))
    # Pillow's filters widen with the scale: this is the antialiased resize.
    return pixels(face.crop(_CROP).resize((size, size), Image.Resampling.BILINEAR))


def _read_attributes(path: Path, names: Sequence[str]) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Returns the names of the attributes and, of each image named, which it has."""
    lines = path.read_text(errors="replace").splitlines()
    if len(lines) != len(names) + 2 or lines[0].split() != [str(len(names))]:
        raise ValueError(
            f"{path} has {len(lines)} lines, expected the number {len(names)}, the attributes and"
            f" the {len(names)} images of list_eval_partition.txt"
        )
    attributes = lines[1].split()
    if len(attributes) != _ATTRIBUTES:
        raise ValueError(f"{path}, line 2: {len(attributes)} attributes, expected {_ATTRIBUTES}")
    labels = bytearray()
    for number, (name, line) in enumerate(zip(names, lines[2:], strict=True), start=3):
        found, *values = line.split() or [""]
        if found != name or len(values) != _ATTRIBUTES or not {"1", "-1"}.issuperset(values):
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} is not {name!r},"
                f" as list_eval_partition.txt has it there, and {_ATTRIBUTES} times 1 or -1"
            )
        labels += bytes(value == "1" for value in values)
    return attributes, np.frombuffer(labels, np.uint8).reshape(-1, _ATTRIBUTES)
