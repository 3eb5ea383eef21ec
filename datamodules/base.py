"""Base class of the image data modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.sampler import OrderedShare, ShuffledBatches

VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0))


class _Images(Dataset[Tensor]):
    """Makes a batch by one tensor indexing, instead of one image at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | Tensor) -> Tensor:
        return self.images[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[indices]


class _ResumableLoader(DataLoader[Tensor]):
    """Tells Lightning, which looks for these two methods, that a resume in mid-epoch is exact.

    There is nothing to save here: the position is the data module's.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def _as_is(batch: Any) -> Any:
    return batch


def _loader_options() -> dict[str, Any]:
    # Each iterator of a DataLoader draws one number, from the global generator if it has no other.
    return {"generator": torch.Generator(), "pin_memory": torch.cuda.is_available()}


class ImageDataModule(LightningDataModule):
    """Images held in memory as uint8, batched by one tensor indexing, converted on the device.

    Batches leave the loaders as uint8 ``(B, C, H, W)``; `on_after_batch_transfer` makes them
    float32 in ``value_range``. The training order is a pure function of seed and epoch, and the
    position in it (``epoch``, ``batches_trained``) is part of the checkpoint: whoever trains adds
    one to ``batches_trained`` after each batch, and a resumed run sees the very next batch.

    A subclass implements `load_images`, and may override `prepare_data` for downloads.

    Args:
        batch_size: Images per batch **and process**; W processes together see W times as many.
        seed: Seed of the training order, and of whatever random draw makes the images.
        value_range: Range of the float images: (0, 1), or (-1, 1).

    Attributes:
        name: Short name of the data set, as used in file names.
        num_classes: Number of labels, or None for data without.
        image_shape: ``(C, H, W)`` of one image; known after `setup` at the latest.
        epoch: Passes over the training set completed.
        batches_trained: Batches of the current epoch already trained on.

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

    name: str = "images"
    num_classes: int | None = None
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        self.batch_size = batch_size
        self.seed = seed
        self.value_range = _checked_range(value_range)
        self.epoch = 0
        self.batches_trained = 0
        self._images: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the training and the test images, each uint8 ``(N, C, H, W)``."""

    def setup(self, stage: str | None = None) -> None:
        """Loads the images into memory, once for all stages.

        Raises:
            ValueError: If the training images do not fill one batch, or the test images have
                another shape.
        """
        if self._images is not None:
            return
        train, test = self.load_images()
        if train.shape[1:] != test.shape[1:]:
            raise ValueError(
                f"test images have shape {tuple(test.shape[1:])},"
                f" training images {tuple(train.shape[1:])}; they must agree"
            )
        if self.batch_size > len(train):
            raise ValueError(
                f"batch_size={self.batch_size} must be at most {len(train)},"
                " the number of training images"
            )
        channels, height, width = train.shape[1:]
        self.image_shape = (channels, height, width)
        self._images = (train, test)

    @property
    def train_images(self) -> Tensor:
        """The training images, uint8 ``(N, C, H, W)``."""
        return self._loaded()[0]

    @property
    def test_images(self) -> Tensor:
        """The test images, uint8 ``(N, C, H, W)``."""
        return self._loaded()[1]

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Returns shuffled full batches; this process' rows of them if there are several.

        Raises:
            ValueError: If the batch of all processes together exceeds the training images, or under
                ``Trainer(overfit_batches=...)``, which would replace the order.
        """
        images = _Images(self.train_images)
        rank, world_size = self._rank_and_world_size()
        if self.batch_size * world_size > len(images):
            raise ValueError(
                f"batch_size={self.batch_size} on {world_size} processes must be at most"
                f" {len(images)} together, the number of training images"
            )
        if overfit_batches := getattr(self.trainer, "overfit_batches", 0):
            raise ValueError(
                f"overfit_batches={overfit_batches} is not supported; use limit_train_batches"
            )
        sampler = ShuffledBatches(images, self.batch_size, self.seed, self, rank, world_size)
        return _ResumableLoader(images, sampler=sampler, batch_size=None, **_loader_options())

    def ordered_train_dataloader(self) -> DataLoader[Tensor]:
        """Returns every training image exactly once, in order, nothing dropped or repeated.

        The last batch may be short. Each of several processes gets a disjoint share; the shares
        differ by at most one image, so weight what is averaged over them by the image counts.
        """
        return self._ordered(self.train_images)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Returns the test images in order; each of several processes gets a disjoint share."""
        return self._ordered(self.test_images)

    def test_dataloader(self) -> DataLoader[Tensor]:
        """Returns the test images in order."""
        return self._ordered(self.test_images)

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """Returns the test images in order."""
        return self._ordered(self.test_images)

    def to_float(self, images: Tensor) -> Tensor:
        """Returns uint8 images as float32 in ``value_range``; any other tensor unchanged."""
        if images.dtype != torch.uint8:
            return images
        if self.value_range == (0.0, 1.0):
            return images.to(torch.float32).div_(255)
        return images.to(torch.float32).div_(127.5).sub_(1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Converts a batch of uint8 images on the device; see `to_float`."""
        return self.to_float(batch) if isinstance(batch, Tensor) else batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the training data."""
        return {"epoch": self.epoch, "batches_trained": self.batches_trained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes to a position returned by `state_dict`."""
        self.epoch = state_dict["epoch"]
        self.batches_trained = state_dict["batches_trained"]

    def _ordered(self, images: Tensor) -> DataLoader[Tensor]:
        data = _Images(images)
        return DataLoader(
            data,
            sampler=OrderedShare(data, *self._rank_and_world_size()),
            batch_size=self.batch_size,
            collate_fn=_as_is,
            **_loader_options(),
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _loaded(self) -> tuple[Tensor, Tensor]:
        if self._images is None:
            raise RuntimeError(f"call {type(self).__name__}.setup() before reading its images")
        return self._images


def _checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    for allowed in VALUE_RANGES:
        if tuple(value_range) == allowed:
            return allowed
    raise ValueError(f"value_range={value_range} must be (0, 1) or (-1, 1)")
