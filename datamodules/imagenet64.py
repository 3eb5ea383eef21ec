"""ImageNet at 64x64 pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from tqdm import tqdm

from lightning_igm.data.cache import (
    Image,
    cache_path,
    load_about,
    load_array,
    load_skipped,
    prepare,
    write_array,
)
from lightning_igm.data.decode import centre_crop, open_image, pixels, resize_shorter_side
from lightning_igm.data.image_folder import OnError, check_on_error, check_same_classes
from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.listing import find_classes, find_images, tell_of
from lightning_igm.data.pickles import read_pickle

Resize = Literal["tf1", "antialias"]

_SHAPE = (3, 64, 64)
_SIDE = 256  # Of the squares that are made smaller.
_TRAIN_BATCHES = [f"train_data_batch_{number}" for number in range(1, 11)]


class ImageNet64DataModule(ImageDataModule):
    """The 1.28 million training images of ImageNet at 64x64 pixels, not augmented.

    ImageNet Large Scale Visual Recognition Challenge (Russakovsky et al., 2015,
    https://arxiv.org/abs/1409.0575), from one of two layouts in ``root``:

    - The original images, in ``train/<class>/*.JPEG`` and, if there, ``val/<class>/*.JPEG``. The
      shorter side is scaled to 256 pixels and the central square cut out; how it gets small is
      ``resize``. The labels are the positions of the classes in the order of their names.
    - The arrays of A Downsampled Variant of ImageNet (Chrabaszcz et al., 2017,
      https://arxiv.org/abs/1707.08819): ``train_data_batch_1`` to ``train_data_batch_10`` and, if
      there, ``val_data``, plain or ``.npz``. They were made with a box filter from the whole image,
      its sides not kept in proportion, and are taken as they are, whatever ``resize``. The labels
      are theirs less one, in the order of ``map_clsloc.txt`` of ImageNet's development kit.

    Either is put once into an array of 15.7 GB that later runs map. The validation images are the
    test images; without them, the training images serve again. The images may not be redistributed,
    so nothing is downloaded; https://image-net.org has both.

    Args:
        root: Folder with one of the layouts; of both, the original images count.
        resize: "tf1" stores the square as a JPEG of quality 95 and takes every fourth pixel, as
            TensorFlow 1 does to make a picture four times smaller: the images of On Gradient
            Regularizers for MMD GANs (Arbel et al., 2018, https://arxiv.org/abs/1805.11565).
            "antialias" has an antialiased bilinear filter instead, and no JPEG.
        cache_dir: Where to keep the array; None for the hidden folder ``.igm_cache`` in ``root``.
            It is told apart by ``resize`` and the names of the classes, not by the single images:
            to have it made again after these changed, delete it.
        on_error: What to do about an image that cannot be decoded or is not there: "raise" an error
            that names it, or "skip" it with a warning. The ``.json`` beside the array lists what
            was skipped.
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Attributes:
        class_names: The class folders, or None of the arrays, which have numbers alone.
        train_labels: int64 ``(N,)``, known after `setup`, as are the others.
        test_labels: int64 ``(N,)``.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what it should.
        FileNotFoundError: If files are missing.
        OSError: If the cache cannot be written.

    Example:
        >>> ImageNet64DataModule(root="data/imagenet").image_shape
        (3, 64, 64)
    """

    name = "imagenet64"
    class_names: list[str] | None = None

    def __init__(
        self,
        root: str | Path = "data/imagenet",
        resize: Resize = "tf1",
        cache_dir: str | Path | None = None,
        on_error: OnError = "raise",
        batch_size: int = 64,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        if resize not in ("tf1", "antialias"):
            raise ValueError(f"resize={resize!r} must be 'tf1' or 'antialias'")
        check_on_error(on_error)
        self.root = Path(root)
        self.resize: Resize = resize
        self.cache_dir = self.root / ".igm_cache" if cache_dir is None else Path(cache_dir)
        self.on_error = on_error
        self.image_shape = _SHAPE

    def prepare_data(self) -> None:
        """Decodes the images that are not in the cache yet."""
        for source in self._sources():
            source.prepare(f"cache_dir={str(self.cache_dir)!r}")

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images of the cache; sets the labels, their number and names."""
        sources = self._sources()
        self.class_names = sources[0].class_names
        self.num_classes = 1000 if self.class_names is None else len(self.class_names)
        loaded = [source.load() for source in sources]
        train, self.train_labels = loaded[0]
        test, self.test_labels = loaded[-1]
        return train, test

    def _sources(self) -> list[_Tree] | list[_Arrays]:
        """Returns where the training images are, and where the test images are if there are any."""
        if (self.root / "train").is_dir():
            return self._trees()
        files = [_find_array(self.root, name) for name in _TRAIN_BATCHES]
        if missing := [n for n, file in zip(_TRAIN_BATCHES, files, strict=True) if file is None]:
            listed = "" if len(missing) == len(files) else f" ({', '.join(missing)} missing)"
            raise FileNotFoundError(
                f"root={str(self.root)!r} must hold train/<class>/*.JPEG, or train_data_batch_1 to"
                f" train_data_batch_10 of downsampled ImageNet 64x64{listed}; put one of them there"
            )
        val = _find_array(self.root, "val_data")
        train = _Arrays("train", [file for file in files if file is not None], self.cache_dir)
        return [train] if val is None else [train, _Arrays("val", [val], self.cache_dir)]

    def _trees(self) -> list[_Tree]:
        folders = [self.root / split for split in ("train", "val")]
        trees = [
            _Tree(folder, _sub_folders(folder), self.cache_dir, self.resize, self.on_error)
            for folder in folders
            if folder.is_dir()
        ]
        for tree in trees[1:]:
            check_same_classes(trees[0].class_names, tree.class_names, str(tree.folder))
        return trees


@dataclass(frozen=True)
class _Tree:
    """Original images, in one folder for each class."""

    folder: Path
    class_names: list[str]
    cache_dir: Path
    resize: Resize
    on_error: OnError

    @property
    def cache(self) -> Path:
        preparation = {"side": _SIDE, "resize": self.resize, "classes": self.class_names}
        return cache_path(self.cache_dir, f"imagenet64-{self.folder.name}", preparation)

    def prepare(self, argument: str) -> None:
        if self.cache.is_file():
            return
        others: Counter[str] = Counter()
        images = {name: find_images(self.folder / name, others) for name in self.class_names}
        if empty := [name for name in images if not images[name]]:
            raise FileNotFoundError(
                f"{self.folder / empty[0]} holds no images, nor do {len(empty) - 1} other class"
                " folders; put the .JPEG files there"
            )
        tell_of(others, str(self.folder))
        paths = [self.folder / name / image for name in images for image in images[name]]
        about = {
            "folder": str(self.folder),
            "resize": self.resize,
            "images_of_classes": {name: len(images[name]) for name in images},
        }
        decode = partial(_decode, self.resize)
        prepare(self.cache, paths, decode, _SHAPE, argument, about, skip=self.on_error == "skip")

    def load(self) -> tuple[Tensor, Tensor]:
        skipped = load_skipped(self.cache, allowed=self.on_error == "skip")
        counts = list(load_about(self.cache)["images_of_classes"].values())
        labels = np.delete(np.repeat(np.arange(len(counts)), counts), skipped)
        return load_array(self.cache, (len(labels), *_SHAPE)), torch.from_numpy(labels)


@dataclass(frozen=True)
class _Arrays:
    """Files of downsampled ImageNet."""

    split: str
    files: list[Path]
    cache_dir: Path
    class_names = None

    @property
    def cache(self) -> Path:
        status = [(file.name, file.stat()) for file in self.files]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in status]
        return cache_path(self.cache_dir, f"imagenet64-{self.split}", {"files": files})

    def prepare(self, argument: str) -> None:
        labels: list[int] = []
        count = sum(file.stat().st_size for file in self.files) // int(np.prod(_SHAPE))
        about = {"files": [str(file) for file in self.files], "labels": labels}
        write_array(self.cache, self._images(labels), count, _SHAPE, argument, about)

    def load(self) -> tuple[Tensor, Tensor]:
        labels = torch.tensor(load_about(self.cache)["labels"], dtype=torch.int64)
        return load_array(self.cache, (len(labels), *_SHAPE)), labels

    def _images(self, labels: list[int]) -> Iterator[Image]:
        """Yields the images of one file after another, and notes their labels."""
        for file in tqdm(self.files, desc=f"Preparing {self.cache.stem}"):
            yield _read_batch(file, labels)


def _sub_folders(folder: Path) -> list[str]:
    names = find_classes(folder)
    if not names:
        raise FileNotFoundError(
            f"{folder} must hold a folder of .JPEG files for each class; sort the files into them"
        )
    return names


def _decode(resize: Resize, path: Path) -> Image:
    square = centre_crop(resize_shorter_side(open_image(path), _SIDE), _SIDE)
    if resize == "antialias":
        return pixels(square.resize(_SHAPE[1:], PIL.Image.Resampling.BILINEAR))
    file = BytesIO()
    square.save(file, "JPEG", quality=95)
    return np.ascontiguousarray(pixels(open_image(file))[:, ::4, ::4])


def _find_array(root: Path, name: str) -> Path | None:
    return next((p for p in (root / name, root / f"{name}.npz") if p.is_file()), None)


def _read_batch(path: Path, labels: list[int]) -> Image:
    """Returns the images of one file and appends their labels, from 0."""
    content = _read_npz(path) if path.suffix == ".npz" else read_pickle(path)
    data, numbers = content.get("data"), np.array(content.get("labels"), dtype=object)
    if not isinstance(data, np.ndarray):
        raise ValueError(f"{path} holds no array named data; replace it")
    if data.dtype != np.uint8 or data.shape[1:] != (np.prod(_SHAPE),):
        raise ValueError(
            f"{path} holds {data.dtype} {data.shape}, expected uint8 (N, 12288); replace it"
        )
    if numbers.shape != data.shape[:1] or not all(map(_is_label, numbers)):
        raise ValueError(
            f"{path} must hold a label from 1 to 1000 for each of {len(data)} images; replace it"
        )
    labels += [int(number) - 1 for number in numbers]
    return data.reshape(-1, *_SHAPE)


def _is_label(number: Any) -> bool:
    return isinstance(number, int | np.integer) and bool(1 <= number <= 1000)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy raises whatever it runs into in a damaged file.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no complete .npz ({reason}); replace it") from error
