"""Color MNIST: one digit in one random colour on a faintly noisy background."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.color import check_noise, colorize
from datamodules.images import ImageDataModule
from datamodules.sampler import stream_seed

# Shapes of the four idx files; an idx file is a header of 4 + 4 * ndim bytes, then the values.
_SHAPES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


class ColorMNISTDataModule(ImageDataModule):
    """MNIST in random colours: one fixed draw of colour and noise for each digit.

    The data set of the Method of Learned Moments (Ravuri et al., 2018, https://arxiv.org/abs/1806.11006);
    the recipe is `datamodules.color.colorize_float`. The 60,000 training images and the 10,000 test
    images come from different random draws of the same seed.

    Args:
        root: Folder that holds, or will hold, ``MNIST/raw/*-ubyte`` (or ``*-ubyte.gz``).
        download: Whether `prepare_data` downloads the files where they are missing.
        batch_size: Images per batch and process.
        size: 32 pads the 28x28 digits by 2 on each side before the noise; 28 does not.
        noise: Standard deviation of the noise.
        seed: Seed of the colours, the noise and the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what its name says.
        FileNotFoundError: If files are missing and may not, or cannot, be downloaded.

    Example:
        >>> mnist = ColorMNISTDataModule(batch_size=1000, size=32)
        >>> mnist.image_shape
        (3, 32, 32)
    """

    name = "color_mnist"
    num_classes = 10

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = True,
        batch_size: int = 1000,
        size: int = 32,
        noise: float = 0.2,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        if size not in (28, 32):
            raise ValueError(f"size={size} must be 28 or 32")
        check_noise(noise)
        self.root = Path(root)
        self.download = download
        self.noise = noise
        self.image_shape = (3, size, size)

    def prepare_data(self) -> None:
        """Downloads the files where they are missing and ``download`` is on."""
        if self.download and _missing(self.root):
            # Only the download needs torchvision, which takes seconds to import.
            from torchvision.datasets import MNIST

            try:
                MNIST(str(self.root), download=True)
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise FileNotFoundError(
                    f"root={str(self.root)!r}: the download of MNIST failed; put"
                    f" {_listed(_missing(self.root))} into {_folder(self.root)} ({reason})"
                ) from error
        _check_present(self.root)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the coloured digits; sets ``train_labels``, ``test_labels``, int64 ``(N,)``."""
        _check_present(self.root)
        padding = (self.image_shape[1] - 28) // 2
        images = []
        for stream, split in enumerate(("train", "t10k")):
            digits = F.pad(_read_idx(self.root, f"{split}-images-idx3-ubyte"), (padding,) * 4)
            images.append(colorize(digits.unsqueeze(1), stream_seed(self.seed, stream), self.noise))
        self.train_labels = _read_idx(self.root, "train-labels-idx1-ubyte").long()
        self.test_labels = _read_idx(self.root, "t10k-labels-idx1-ubyte").long()
        return images[0], images[1]


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
