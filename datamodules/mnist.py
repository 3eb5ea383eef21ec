"""MNIST, and the reading of its files for the data sets that are made of it."""

from __future__ import annotations

import gzip
import os
import zlib
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_igm.data.images import ImageDataModule

Digits = tuple[Tensor, Tensor]

# Shapes of the four idx files; an idx file is a header of 4 + 4 * ndim bytes, then the values.
_SHAPES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


class MNISTDataModule(ImageDataModule):
    """The 60,000 training and 10,000 test digits in grey.

    Gradient-Based Learning Applied to Document Recognition (LeCun et al., 1998, https://doi.org/10.1109/5.726791).

    Args:
        root: Folder that holds, or will hold, ``MNIST/raw/*-ubyte`` (or ``*-ubyte.gz``).
        download: Whether `prepare_data` downloads the files where they are missing.
        size: 28, or 32 for a black border of 2 pixels.
        pool: Whether all 70,000 digits are training images, and test images again, as in the code
            of On Gradient Regularizers for MMD GANs (Arbel et al., 2018, https://arxiv.org/abs/1805.11565).
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what its name says.
        FileNotFoundError: If files are missing and may not, or cannot, be downloaded.

    Example:
        >>> MNISTDataModule(size=32).image_shape
        (1, 32, 32)
    """

    name = "mnist"
    num_classes = 10

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = True,
        size: int = 28,
        pool: bool = False,
        batch_size: int = 200,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        check_size(size)
        self.root = Path(root)
        self.download = download
        self.pool = pool
        self.image_shape = (1, size, size)

    def prepare_data(self) -> None:
        """Downloads the files where they are missing and ``download`` is on."""
        prepare_mnist(self.root, self.download)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the digits; sets ``train_labels`` and ``test_labels``, int64 ``(N,)``."""
        train, test = load_mnist(self.root, self.image_shape[1])
        if self.pool:
            train = test = pooled(train, test)
        self.train_labels, self.test_labels = train[1], test[1]
        return train[0], test[0]


def check_size(size: int) -> None:
    """Raises ValueError if ``size`` is neither that of the digits nor that of padded ones."""
    if size not in (28, 32):
        raise ValueError(f"size={size} must be 28 or 32")


def prepare_mnist(root: Path, download: bool) -> None:
    """Downloads the files of MNIST where they are missing and ``download`` is on.

    Raises:
        FileNotFoundError: If files are missing and may not, or cannot, be downloaded.
    """
    if download and _missing(root):
        _download(root)
    _check_present(root)


def load_mnist(root: Path, size: int) -> tuple[Digits, Digits]:
    """Reads the training and the test part.

    Args:
        root: Folder of ``MNIST/raw``.
        size: Height and width; more than 28 pads with black on each side.

    Returns:
        Two pairs of uint8 images ``(N, 1, size, size)`` and int64 labels ``(N,)``.

    Raises:
        ValueError: If a file does not hold what its name says.
        FileNotFoundError: If files are missing.
    """
    _check_present(root)
    padding = (size - 28) // 2

    def read(split: str) -> Digits:
        images = _read_idx(root, f"{split}-images-idx3-ubyte").unsqueeze(1)
        labels = _read_idx(root, f"{split}-labels-idx1-ubyte").long()
        return F.pad(images, (padding,) * 4), labels

    return read("train"), read("t10k")


def pooled(train: Digits, test: Digits) -> Digits:
    """Returns both parts as one, the training part first."""
    return torch.cat((train[0], test[0])), torch.cat((train[1], test[1]))


def _download(root: Path) -> None:
    # Only the download needs torchvision, which takes seconds to import.
    from torchvision.datasets import MNIST

    try:
        root.mkdir(parents=True, exist_ok=True)
        # An interrupted download must not leave half a file under a name that is read later.
        with TemporaryDirectory(prefix="mnist-", dir=root) as fresh:
            MNIST(fresh, download=True)
            _folder(root).mkdir(parents=True, exist_ok=True)
            for name in _missing(root):
                os.replace(_folder(Path(fresh)) / name, _folder(root) / name)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"root={str(root)!r}: the download of MNIST failed; put"
            f" {_listed(_missing(root))} into {_folder(root)} ({reason})"
        ) from error


def _folder(root: Path) -> Path:
    return root / "MNIST" / "raw"


def _missing(root: Path) -> list[str]:
    folder = _folder(root)
    return [
        name
        for name in _SHAPES
        if not (folder / name).is_file() and not (folder / f"{name}.gz").is_file()
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names) + " (or the same with .gz)"


def _check_present(root: Path) -> None:
    if missing := _missing(root):
        raise FileNotFoundError(
            f"root={str(root)!r}: {_folder(root)} must hold {_listed(missing)}; put them there,"
            " or set download to true and call prepare_data()"
        )


def _read_idx(root: Path, name: str) -> Tensor:
    """Returns the values of one idx file, plain or gzipped, once its header and size are right."""
    shape = _SHAPES[name]
    path = _folder(root) / name
    if not path.is_file():
        path = path.with_name(f"{name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is no complete gzip file ({error}); replace it") from error
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions; then each size, big-endian.
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if content[: len(header)] != header:
        raise ValueError(f"{path} {_found(content)}, expected {_times(shape)}; replace it")
    if len(content) != len(header) + prod(shape):
        raise ValueError(
            f"{path} has {len(content)} bytes{' unpacked' if path.suffix == '.gz' else ''},"
            f" expected {len(header) + prod(shape)}; replace it"
        )
    values = np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape)
    return torch.from_numpy(values.copy())


def _found(content: bytes) -> str:
    if len(content) < 4 or content[:3] != bytes([0, 0, 8]) or len(content) < 4 + 4 * content[3]:
        return f"has no idx header of unsigned bytes ({len(content)} bytes)"
    sizes = (content[4 + 4 * i : 8 + 4 * i] for i in range(content[3]))
    return f"holds {_times(tuple(int.from_bytes(size, 'big') for size in sizes))} values"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
