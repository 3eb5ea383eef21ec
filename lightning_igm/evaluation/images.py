"""The real images of a run: the one door from a trainer to its data, and passes over them."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_igm.data.adapter import data_of
from lightning_igm.distributed import rank, world_size
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.images import to_uint8

__all__ = [
    "RealImages",
    "Split",
    "are_digits",
    "data_name",
    "digit_extractor",
    "image_data",
    "of_images",
    "prepared_images",
    "random_images",
]

Split = Literal["train", "test"]

_DIGITS: dict[str, Literal["digits", "mnist"]] = {
    "digits": "digits",
    "mnist": "mnist",
    "color_mnist": "mnist",
    "stacked_mnist": "mnist",
}


def image_data(trainer: Trainer) -> Any:
    """Return the trainer's data module, which must be one of images.

    Args:
        trainer: A trainer that runs with a data module.

    Raises:
        ValueError: If there is none, or it lacks ``ordered_train_dataloader`` or ``value_range``.
    """
    data = data_of(trainer)
    for name in ("ordered_train_dataloader", "value_range"):
        if getattr(data, name, None) is None:
            raise ValueError(f"datamodule must have {name}, got {type(data).__name__}")
    return data


def of_images(trainer: Trainer) -> bool:
    """Whether the trainer's data are images, rather than points without a range of values."""
    data = data_of(trainer)
    return getattr(data, "value_range", None) is not None or not hasattr(data, "image_shape")


def data_name(trainer: Trainer) -> str:
    """Return what the trainer's data are called."""
    return getattr(data_of(trainer), "name", None) or "these images"


def are_digits(trainer: Trainer) -> bool:
    """Tell whether the digit classifier's features suit the trainer's data."""
    return data_name(trainer) in _DIGITS


def digit_extractor(trainer: Trainer) -> DigitClassifier:
    """The digit classifier with the weights for the trainer's data."""
    return DigitClassifier.pretrained(_DIGITS.get(data_name(trainer), "digits"))


@dataclass(frozen=True)
class RealImages:
    """Images of a data module's split, this process's share; iterating gives uint8 batches.

    Training images are those that are trained on: augmented if the data module augments them, by
    its seed. Each batch ``(N, C, H, W)`` comes with the position of its first image among those of
    all processes.

    Args:
        data: The data module; see :func:`image_data`.
        split: Which images.
        device: Where the batches go.
    """

    data: Any
    split: Split
    device: torch.device

    @property
    def known_count(self) -> int | None:
        """Number of images of all processes, or None if the data module does not tell yet."""
        images = getattr(self.data, f"{self.split}_data", None)
        return None if images is None else len(images)

    @property
    def count(self) -> int:
        """Number of images of all processes; all of them ask at once."""
        return sum(self._shares)

    @property
    def augmented(self) -> bool:
        """Whether the images are augmented at random, as they are in training."""
        return self.split == "train" and getattr(self.data, "random_numbers", 0) > 0

    @property
    def folder(self) -> Path | None:
        """Where statistics of a data set on disk are kept: ``scores`` in its folder."""
        folder = getattr(self.data, "cache_dir", None) or getattr(self.data, "root", None)
        return None if folder is None else Path(folder) / "scores"

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        position = sum(self._shares[: rank()])
        for images in prepared_images(self._loader, self.data, self.device):
            yield position, images
            position += len(images)

    def about(self) -> dict[str, Any]:
        """Name, split, count and hash of all images in order, as prepared; all processes ask."""
        total = 0
        for start, images in self:
            for position, image in enumerate(images.cpu().contiguous().numpy(), start):
                digest = hashlib.blake2b(image.data, digest_size=16, salt=position.to_bytes(16))
                total += int.from_bytes(digest.digest())
        return {
            "data": getattr(self.data, "name", type(self.data).__name__),
            "split": self.split,
            "images": f"{self.count}-{sum(_all_objects(total)) % 2**128:032x}",
        }

    @cached_property
    def _loader(self) -> Any:
        if self.split == "train":
            return self.data.ordered_train_dataloader()
        return self.data.test_dataloader()

    @cached_property
    def _shares(self) -> list[int]:
        """How many images each process has."""
        return _all_objects(len(self._loader.sampler))


def random_images(data: Any, device: torch.device, count: int, seed: int) -> Iterator[Tensor]:
    """Yield random training images, without repetition, as uint8 batches ``(N, C, H, W)``.

    They are those of the seed, of the whole data set, on every process and any number of processes:
    the first images would be those of a few classes where images are stored by class.

    Args:
        data: The data module; see :func:`image_data`. Its ordered loader is a DataLoader of a data
            set with a length.
        device: Where the batches go.
        count: Number of images; all of them if there are not so many.
        seed: Seed of the choice.
    """
    ordered = data.ordered_train_dataloader()
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(ordered.dataset), generator=draw)[:count].tolist()
    chosen: DataLoader[Any] = DataLoader(
        ordered.dataset,
        batch_size=ordered.batch_size,
        sampler=rows,
        collate_fn=ordered.collate_fn,
        generator=draw,
    )
    return prepared_images(chosen, data, device)


def prepared_images(batches: Iterable[Any], data: Any, device: torch.device) -> Iterator[Tensor]:
    """Yield a loader's images as uint8 batches ``(N, C, H, W)``.

    The images take the way of training: to the device, to floats, and from there back to 8 bits as
    generated images do.

    Args:
        batches: One of the data module's loaders of images in order.
        data: The data module; see :func:`image_data`.
        device: Where the batches go.
    """
    for batch in batches:
        images = data.transfer_batch_to_device(batch, device, 0)
        yield to_uint8(data.on_after_batch_transfer(images, 0), data.value_range)


def _all_objects(value: Any) -> list[Any]:
    """The values of all processes."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values
