"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from datamodules.images import ImageDataModule


class CIFAR10DataModule(ImageDataModule):
    """50,000 training and 10,000 test images of 32x32 pixels, not augmented.

    Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py``.
        download: Whether `prepare_data` downloads the files where they are missing.
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range.
        FileNotFoundError: If files are missing or damaged and may not, or cannot, be downloaded.

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
        batch_size: int = 200,
        seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        self.root = Path(root)
        self.download = download
        self.image_shape = (3, 32, 32)

    def prepare_data(self) -> None:
        """Downloads the files where they are missing and ``download`` is on."""
        self._read(train=False, download=self.download)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images; sets ``train_labels`` and ``test_labels``, int64 ``(N,)``."""
        train, self.train_labels = self._read(train=True)
        test, self.test_labels = self._read(train=False)
        return train, test

    def _read(self, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
        # torchvision takes seconds to import, and only some data sets need it.
        from torchvision.datasets import CIFAR10

        try:
            data = CIFAR10(str(self.root), train=train, download=download)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise FileNotFoundError(
                f"root={str(self.root)!r}: {self.root / CIFAR10.base_folder} must hold the original"
                f" files data_batch_1 to data_batch_5, test_batch and batches.meta ({reason})"
            ) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(data.targets)
