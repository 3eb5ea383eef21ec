"""Base class of the image data modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_igm.data.base import InMemoryDataModule

VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0))


class ImageDataModule(InMemoryDataModule):
    """Images held as uint8, converted on the device.

    Batches leave the loaders as uint8 ``(B, C, H, W)``; `on_after_batch_transfer` makes them
    float32 in ``value_range``, after `transform`, which may augment them.

    A subclass implements `load_images`, and may override `prepare_data` for downloads.

    Args:
        batch_size: Images per batch **and process**; W processes together see W times as many.
        seed: Seed of the training order, and of whatever random draw makes the images.
        value_range: Range of the float images: (0, 1), or (-1, 1).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> class Noise(ImageDataModule):
        ...     name = "noise"
        ...
        ...     def load_images(self):
        ...         images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
        ...         return images, images
        >>> noise = Noise(batch_size=4)
        >>> noise.setup()
        >>> [tuple(batch.shape) for batch in noise.train_dataloader()]
        [(4, 3, 8, 8), (4, 3, 8, 8)]
    """

    name = "images"
    value_range: tuple[float, float]

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed)
        self.value_range = _checked_range(value_range)

    @abstractmethod
    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the training and the test images, each uint8 ``(N, C, H, W)``."""

    def load(self) -> tuple[Tensor, Tensor]:
        """Returns `load_images`."""
        return self.load_images()

    @property
    def train_images(self) -> Tensor:
        """The training images as they are stored, uint8 ``(N, C, H, W)``."""
        return self.train_data

    @property
    def test_images(self) -> Tensor:
        """The test images as they are stored, uint8 ``(N, C, H, W)``."""
        return self.test_data

    def transform(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        """Returns the images as the networks see them; an augmentation overrides this.

        Args:
            images: uint8 ``(B, C, H, W)`` as stored, on the device.
            numbers: ``(B, random_numbers)``, uniform in [0, 1), for training images; None for test
                images. In training they are a function of seed, epoch, batch and the image's place
                in it; in a pass over all images in order, of seed and image. Neither the device nor
                the number of processes matters.

        Returns:
            uint8 ``(B, C, H', W')``.
        """
        return images

    def shape_of_example(self, examples: Tensor) -> tuple[int, ...]:
        """Returns ``(C, H, W)`` after `transform`."""
        return tuple(self.transform(examples[:1], None).shape[1:])

    def to_float(self, images: Tensor) -> Tensor:
        """Returns uint8 images as float32 in ``value_range``; any other tensor unchanged."""
        if images.dtype != torch.uint8:
            return images
        # A division of integers makes floats in one pass.
        if self.value_range == (0.0, 1.0):
            return images.div(255)
        return images.div(127.5).sub_(1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Transforms and converts a batch of images on the device."""
        if isinstance(batch, Tensor):
            numbers = None
        elif self.random_numbers and isinstance(batch, list | tuple):
            batch, numbers = batch
        else:
            return batch
        return self.to_float(self.transform(batch, numbers))


def _checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    for allowed in VALUE_RANGES:
        if tuple(value_range) == allowed:
            return allowed
    raise ValueError(f"value_range={value_range} must be (0, 1) or (-1, 1)")
