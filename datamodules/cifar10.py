"""CIFAR-10."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_igm.data.image_array import read_array, read_images
from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.pickles import read_pickle

_PART = 10_000  # Images of each original file.
_COUNTS = {"train": 5 * _PART, "test": _PART}
# Each original file, with the text in it.
_BATCHES = {f"data_batch_{i}": f"training batch {i} of 5" for i in range(1, 6)}
_BATCHES["test_batch"] = "testing batch 1 of 1"
_ORIGINALS, _ARRAYS = "cifar-10-batches-py", "cifar10"
_FILES = {
    _ORIGINALS: list(_BATCHES),
    _ARRAYS: [f"{split}_{kind}.npy" for split in _COUNTS for kind in ("images", "labels")],
}
_POOL_SEED = 547  # In the published code of the paper that pools.

Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class CIFAR10DataModule(ImageDataModule):
    """50,000 training and 10,000 test images of 32x32 pixels, not augmented.

    Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py`` with the original files; or
            that holds ``cifar10/{train,test}_{images,labels}.npy``, uint8 ``(N, 32, 32, 3)`` and
            integers ``(N,)``.
        download: Whether `prepare_data` downloads the original files where both are missing.
        pool: Whether the training and the test images are one set of 60,000, shuffled, that serves
            as both; as in On gradient regularizers for MMD GANs (Arbel et al., 2018,
            https://arxiv.org/abs/1805.11565).
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Attributes:
        train_labels: Classes of the training images, int64 ``(N,)``; known after `setup`.
        test_labels: Classes of the test images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what its name says.
        FileNotFoundError: If files are missing and may not, or cannot, be downloaded.

    Example:
        >>> CIFAR10DataModule(root="data", batch_size=200).image_shape
        (3, 32, 32)
    """

    name = "cifar10"
    num_classes = 10

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = True,
        pool: bool = False,
        batch_size: int = 200,
        seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        self.root = Path(root)
        self.download = download
        self.pool = pool
        self.image_shape = (3, 32, 32)

    def prepare_data(self) -> None:
        """Downloads the files where they are missing and ``download`` is on."""
        if (
            self.download
            and not (self.root / _ORIGINALS).exists()
            and _missing(self.root / _ARRAYS)
        ):
            _download(self.root)
        _source(self.root)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images; sets ``train_labels`` and ``test_labels``, int64 ``(N,)``."""
        images, labels = _collect(_parts(_source(self.root)))
        if self.pool:
            for values in (images, labels):  # In place, and in the same order.
                np.random.RandomState(_POOL_SEED).shuffle(values.numpy())
            self.train_labels = self.test_labels = labels
            return images, images
        self.train_labels, self.test_labels = labels.split(list(_COUNTS.values()))
        train, test = images.split(list(_COUNTS.values()))
        return train, test


def _missing(folder: Path) -> list[str]:
    return [name for name in _FILES[folder.name] if not (folder / name).is_file()]


def _source(root: Path) -> Path:
    """Returns the folder that has all its files."""
    folders = [root / name for name in _FILES]
    for folder in folders:
        if not _missing(folder):
            return folder
    wanted = ", or ".join(f"{folder} must hold {', '.join(_missing(folder))}" for folder in folders)
    raise FileNotFoundError(
        f"root={str(root)!r}: {wanted}; put them there, or call prepare_data() with download=true,"
        f" which makes {_ORIGINALS} if there is no such folder"
    )


def _download(root: Path) -> None:
    # torchvision takes seconds to import, and only the download needs it.
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        root.mkdir(parents=True, exist_ok=True)
        # Under its own name only once complete.
        with TemporaryDirectory(dir=root, prefix=f"{_ORIGINALS}-") as partial_folder:
            download_and_extract_archive(CIFAR10.url, partial_folder, md5=CIFAR10.tgz_md5)
            if not (root / _ORIGINALS).exists():
                os.replace(Path(partial_folder, CIFAR10.base_folder), root / _ORIGINALS)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"root={str(root)!r}: the download of CIFAR-10 failed; put"
            f" {', '.join(_BATCHES)} into {root / _ORIGINALS} ({reason})"
        ) from error


def _parts(folder: Path) -> list[Callable[[], Part]]:
    """Returns what reads the images 10,000 at a time; the last of them are the test images."""
    if folder.name == _ORIGINALS:
        return [partial(_read_batch, folder / name, text) for name, text in _BATCHES.items()]
    return [
        partial(_read_rows, folder, split, slice(start, start + _PART))
        for split, count in _COUNTS.items()
        for start in range(0, count, _PART)
    ]


def _collect(parts: Sequence[Callable[[], Part]]) -> tuple[Tensor, Tensor]:
    """Returns the images and labels of some parts, reading one part at a time."""
    images = np.empty((len(parts) * _PART, 3, 32, 32), np.uint8)
    labels = np.empty(len(images), np.int64)
    for i, read in enumerate(parts):
        rows = slice(i * _PART, (i + 1) * _PART)
        images[rows], labels[rows] = read()
    return torch.from_numpy(images), torch.from_numpy(labels)


def _read_batch(path: Path, text: str) -> Part:
    """Returns one original file."""
    content = read_pickle(path)
    found, data = content.get("batch_label", text), content.get("data")
    if found not in (text, text.encode()):
        raise ValueError(f"{path} holds {found!r}, expected {text!r}; replace it")
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape != (_PART, 3 * 32 * 32)
    ):
        kind = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{path} holds {kind}, expected data of uint8 ({_PART}, 3072); replace it")
    labels = _checked_labels(content.get("labels"), _PART, path)
    return data.reshape(_PART, 3, 32, 32), labels


def _read_rows(folder: Path, split: str, rows: slice) -> Part:
    """Returns a part of the arrays; what was mapped for it is let go of with it."""
    images, labels = _map(folder, split)
    return images[rows].numpy(), labels[rows].numpy()


def _map(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    path, count = folder / f"{split}_images.npy", _COUNTS[split]
    images = read_images(path, str(path))
    if images.shape != (count, 3, 32, 32):
        raise ValueError(
            f"{path} holds {len(images)} images {tuple(images.shape[1:])},"
            f" expected {count} of (3, 32, 32); replace it"
        )
    path = folder / f"{split}_labels.npy"
    return images, torch.from_numpy(_checked_labels(read_array(path, str(path)), count, path))


def _checked_labels(labels: Any, count: int, path: Path) -> npt.NDArray[np.int64]:
    with suppress(ValueError):  # NumPy's, of lists within the list.
        array = np.array(labels)
        if (
            array.shape == (count,)
            and array.dtype.kind in "iu"
            and 0 <= array.min() <= array.max() < 10
        ):
            return array.astype(np.int64)
    raise ValueError(f"{path} must hold {count} labels from 0 to 9; replace it")
