"""Any folder of images."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lightning_igm.data.cache import Image, cache_path, load_array, load_skipped, prepare
from lightning_igm.data.decode import (
    MAX_PIXELS,
    centre_crop,
    open_image,
    pixels,
    resize_shorter_side,
)
from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.listing import EXTENSIONS, endings, find_images, tell_of

OnError = Literal["raise", "skip"]

_ATTEMPTS = 3  # At a folder that changes while it is decoded.


class ImageFolderDataModule(ImageDataModule):
    """All the images in a folder and below it, in the order of their names.

    Each is scaled so that its shorter side has ``size`` pixels, and its centre cut out. They are
    decoded once, into an array that later runs map; a folder that changed is decoded anew. Hidden
    files and folders (``.name``) do not count, and how many files have other endings is told. Links
    are followed, but not to a folder above, nor to one whose images count already.

    If every image lies in a sub-folder, the sub-folders of the first level are the labels, as in
    `torchvision.datasets.ImageFolder`.

    Args:
        root: The folder: .jpg, .jpeg, .png, .bmp, .webp, .tif, .tiff, .gif, .ppm and .pgm files.
        size: Height and width to give the images.
        channels: 3 for colour, 1 for grey.
        test_root: Folder of the test images, in sub-folders of the same names; without one, the
            training images serve again.
        cache_dir: Where to keep the decoded images, ``size * size * channels`` bytes each; None for
            the hidden folder ``.igm_cache`` in ``root``. Old arrays there are not deleted.
        on_error: What to do about an image that cannot be decoded or is not there (a link to
            nothing): "raise" an error that names it, or "skip" it with a warning. The ``.json``
            beside the array lists what was skipped.
        bits: How many bits count in grey files of more than 8, from 8 to 31: 12 if white is 4095.
            None for what each file says; one that says nothing has 16, and is an error if all its
            values are below 4096, since it would be black.
        max_pixels: Largest width times height to decode; what is larger is an error.
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Attributes:
        class_names: The sub-folders that are the labels, or None.
        train_labels: int64 ``(N,)``, or None; known after `setup`, as is the other.
        test_labels: int64 ``(N,)``, or None.

    Raises:
        ValueError: If an argument is out of range, or an image cannot be decoded.
        FileNotFoundError: If there are no images.
        OSError: If the cache cannot be written.

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in ("cat", "dog"):
        ...     os.mkdir(f"{folder.name}/{name}")
        ...     PIL.Image.new("RGB", (40, 30)).save(f"{folder.name}/{name}/1.png")
        >>> data = ImageFolderDataModule(folder.name, size=32, batch_size=2)
        >>> data.prepare_data()
        >>> data.setup()
        >>> data.class_names, data.train_labels, tuple(data.train_images.shape)
        (['cat', 'dog'], tensor([0, 1]), (2, 3, 32, 32))
        >>> folder.cleanup()
    """

    name = "image_folder"
    class_names: list[str] | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None

    def __init__(
        self,
        root: str | Path,
        size: int = 64,
        channels: int = 3,
        test_root: str | Path | None = None,
        cache_dir: str | Path | None = None,
        on_error: OnError = "raise",
        bits: int | None = None,
        max_pixels: int = MAX_PIXELS,
        batch_size: int = 100,
        seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        if size < 1:
            raise ValueError(f"size={size} must be at least 1")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} must be 1 or 3")
        check_on_error(on_error)
        if bits is not None and not 8 <= bits <= 31:
            raise ValueError(f"bits={bits} must be 8 to 31, or None")
        if max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels} must be at least 1")
        self.root = Path(root)
        self.test_root = None if test_root is None else Path(test_root)
        self.cache_dir = self.root / ".igm_cache" if cache_dir is None else Path(cache_dir)
        self.on_error = on_error
        self.bits = bits
        self.max_pixels = max_pixels
        self.image_shape = self._shape = (channels, size, size)

    def prepare_data(self) -> None:
        """Decodes the images that are not in the cache yet."""
        listed = self._listed(tell=True)
        for _ in range(_ATTEMPTS):
            caches = [(self._cache(folder, names), folder, names) for folder, names in listed]
            if all(cache.is_file() for cache, *_ in caches):
                return
            for cache, folder, names in caches:
                self._prepare(cache, folder, names)
            listed = self._listed()  # Files may come and go while others are decoded.

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images of the cache; sets ``class_names`` and the labels."""
        listed = self._listed()
        self.class_names = _class_names(listed[0][1])
        self.num_classes = None if self.class_names is None else len(self.class_names)
        loaded = [self._load(folder, names) for folder, names in listed]
        train, self.train_labels = loaded[0]
        test, self.test_labels = loaded[-1]
        return train, test

    def _prepare(self, cache: Path, folder: Path, names: list[str]) -> None:
        prepare(
            cache,
            names,
            partial(self._decode, folder),
            self._shape,
            f"cache_dir={str(self.cache_dir)!r}",
            {"folder": str(folder)},
            skip=self.on_error == "skip",
        )

    def _decode(self, folder: Path, name: str) -> Image:
        channels, size, _ = self._shape
        picture = open_image(folder / name, channels, self.bits, self.max_pixels)
        return pixels(centre_crop(resize_shorter_side(picture, size), size))

    def _listed(self, tell: bool = False) -> list[tuple[Path, list[str]]]:
        """Returns the folder of the training images, and that of the test images if there is one.

        Each comes with the names of its images.
        """
        listed = [(self.root, _list_images(self.root, "root", tell))]
        if self.test_root is not None:
            listed.append((self.test_root, _list_images(self.test_root, "test_root", tell)))
            if train := _class_names(listed[0][1]):
                where = f"test_root={str(self.test_root)!r}"
                check_same_classes(train, _class_names(listed[1][1]) or [], where)
        return listed

    def _cache(self, folder: Path, names: list[str]) -> Path:
        preparation = {
            "shape": self._shape,
            "crop": "centre",
            "bits": self.bits,
            "max_pixels": self.max_pixels,
            "files": [(name, *_size_and_time(folder / name)) for name in names],
        }
        return cache_path(self.cache_dir, f"{self.name}-{self._shape[1]}", preparation)

    def _load(self, folder: Path, names: list[str]) -> tuple[Tensor, Tensor | None]:
        cache = self._cache(folder, names)
        skipped = load_skipped(cache, allowed=self.on_error == "skip")
        images = load_array(cache, (len(names) - len(skipped), *self._shape))
        if self.class_names is None:
            return images, None
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = np.array([numbers[_class_name(name)] for name in names], np.int64)
        return images, torch.from_numpy(np.delete(labels, skipped))


def check_same_classes(train: list[str], test: list[str], where: str) -> None:
    """Raises a ValueError if the test images have other classes than the training images."""
    if different := sorted({*train} ^ {*test}):
        raise ValueError(
            f"{where} must hold the same class folders as the training images;"
            f" {len(different)} differ: {', '.join(different[:5])}"
        )


def check_on_error(on_error: str) -> None:
    """Raises a ValueError if the word is unknown."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r} must be 'raise' or 'skip'")


def _list_images(folder: Path, argument: str, tell: bool) -> list[str]:
    where, others = f"{argument}={str(folder)!r}", Counter[str]()
    if not folder.is_dir():
        raise FileNotFoundError(f"{where} must be a folder of images")
    names = find_images(folder, others)
    if not names:
        held = f" (it holds {endings(others)})" if others else ""
        raise FileNotFoundError(
            f"{where} must hold images; put {', '.join(EXTENSIONS)} files there{held}"
        )
    if tell:
        tell_of(others, where)
    return names


def _size_and_time(path: Path) -> tuple[int, int] | tuple[None, None]:
    try:
        status = os.stat(path)
    except OSError:  # A link to nothing, or a file that is no more: decoding says so.
        return None, None
    return status.st_size, status.st_mtime_ns


def _class_name(name: str) -> str:
    return name.partition("/")[0]


def _class_names(names: list[str]) -> list[str] | None:
    if any("/" not in name for name in names):
        return None
    return sorted({_class_name(name) for name in names})
