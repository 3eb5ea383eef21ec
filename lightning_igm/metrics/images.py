"""The one way from float images to 8 bits, shared by scores, sample grids and loggers."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def to_uint8(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Quantise float images to 8 bits: clamp, scale, round.

    Values outside the range are clamped, never wrapped. NaN becomes 0 (black).

    Args:
        images: Float images of any shape, e.g. ``(N, C, H, W)``.
        value_range: The values of black and of white.

    Returns:
        A uint8 tensor of the same shape and device.

    Raises:
        ValueError: If ``images`` are not floats or ``value_range`` is not increasing.

    Example:
        >>> import torch
        >>> to_uint8(torch.tensor([-1.2, -1.0, 0.0, 1.0]), (-1.0, 1.0))
        tensor([  0,   0, 128, 255], dtype=torch.uint8)
    """
    low, high = value_range
    if not high > low:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in {value_range}, got dtype {images.dtype}")
    # bfloat16 has too few digits for 256 levels after the scaling.
    unit = (images.detach().float() - low) / (high - low)
    return unit.nan_to_num(nan=0.0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)


def image_data(trainer: "Trainer") -> Any:
    """Return the trainer's data module, which must be one of images.

    Args:
        trainer: A trainer that runs with a data module.

    Raises:
        ValueError: If there is none, or it lacks ``ordered_train_dataloader`` or ``value_range``.
    """
    data = getattr(trainer, "datamodule", None)
    for name in ("ordered_train_dataloader", "value_range"):
        if getattr(data, name, None) is None:
            raise ValueError(f"datamodule must have {name}, got {type(data).__name__}")
    return data


def of_images(trainer: "Trainer") -> bool:
    """Whether the trainer's data are images, rather than points without a range of values."""
    data = getattr(trainer, "datamodule", None)
    return getattr(data, "value_range", None) is not None or not hasattr(data, "image_shape")


def training_images(data: Any, device: torch.device) -> Iterator[Tensor]:
    """Yield this process's training images once, in order, as uint8 batches ``(N, C, H, W)``.

    Args:
        data: The data module; see :func:`image_data`.
        device: Where the batches go.
    """
    return prepared_images(data.ordered_train_dataloader(), data, device)


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


def save_png(image: Tensor, path: Path) -> None:
    """Write a uint8 image; a run killed on the way leaves no half-written file.

    Args:
        image: ``(1, H, W)`` grey or ``(3, H, W)`` RGB, on any device.
        path: Where to; folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    pixels = image.permute(1, 2, 0).squeeze(2).cpu().numpy()
    Image.fromarray(pixels).save(unfinished, format="PNG")
    os.replace(unfinished, path)
