"""Stacked MNIST: three digits in three channels, a thousand modes that can be counted."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.mnist import check_size, load_mnist, pooled, prepare_mnist
from lightning_igm.data.sampler import stream_seed

_TRAIN, _TEST = 128_000, 26_000


class StackedMNISTDataModule(ImageDataModule):
    """128,000 triples of digits, drawn with replacement: one digit in each of R, G and B.

    The setting of VEEGAN (Srivastava et al., 2017, https://arxiv.org/abs/1705.07761) as in the code
    of PacGAN (Lin et al., 2018, https://arxiv.org/abs/1712.04086): the digits are all 70,000 of
    MNIST, the list of triples is fixed, and 26,000 samples are evaluated, so that there are as many
    test images, from a list of their own. The label of digits a, b, c is 100 a + 10 b + c.

    Args:
        root: Folder that holds, or will hold, ``MNIST/raw/*-ubyte`` (or ``*-ubyte.gz``).
        download: Whether `prepare_data` downloads the files where they are missing.
        size: 28, or 32 for a black border of 2 pixels.
        batch_size: Images per batch and process.
        seed: Seed of the triples and of the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what its name says.
        FileNotFoundError: If files are missing and may not, or cannot, be downloaded.

    Example:
        >>> stacked = StackedMNISTDataModule()
        >>> stacked.image_shape, stacked.num_classes
        ((3, 32, 32), 1000)
    """

    name = "stacked_mnist"
    num_classes = 1000

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = True,
        size: int = 32,
        batch_size: int = 1000,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        check_size(size)
        self.root = Path(root)
        self.download = download
        self.image_shape = (3, size, size)

    def prepare_data(self) -> None:
        """Downloads the files where they are missing and ``download`` is on."""
        prepare_mnist(self.root, self.download)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the stacked digits; sets ``train_labels``, ``test_labels``, int64 ``(N,)``."""
        digits, labels = pooled(*load_mnist(self.root, self.image_shape[1]))
        train, self.train_labels = _stacked(digits, labels, _TRAIN, stream_seed(self.seed, 0))
        test, self.test_labels = _stacked(digits, labels, _TEST, stream_seed(self.seed, 1))
        return train, test


def _stacked(digits: Tensor, labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    triples = torch.randint(len(digits), (count, 3), generator=generator)
    # index_select copies whole images; indexing by the triples would copy value by value.
    images = digits.index_select(0, triples.flatten()).view(count, 3, *digits.shape[2:])
    return images, labels[triples] @ torch.tensor([100, 10, 1])
