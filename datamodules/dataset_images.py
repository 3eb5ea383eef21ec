"""All images of a map-style data set as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_igm.data.examples import (
    Range,
    Seeded,
    extremes,
    last_line,
    likely_range,
    mapped_length,
    picked,
)

Mode = Literal["L", "RGB"]


class ReadImages(NamedTuple):
    """Images and labels that `read_dataset` returns."""

    images: Tensor
    """uint8 ``(N, C, H, W)``."""
    labels: Tensor | None
    """int64 ``(N,)``, or None."""
    float_range: Range | None
    """Range that the images had as floats; None of uint8 ones."""


_CHUNK = 256
_GREY = ("L", "LA", "1")
_WIDE = ("F", "I")


def check_mapped(dataset: Any, name: str) -> int:
    """Returns the number of examples of a data set.

    Args:
        dataset: See `read_dataset`.
        name: Of the argument.

    Raises:
        ValueError: If there are none, or they cannot be read by number.
    """
    count = None if isinstance(dataset, Mapping) else mapped_length(dataset)
    if count is None:
        kind = type(dataset).__name__
        if isinstance(dataset, Mapping):
            kind += f" of {', '.join(map(str, dataset))}"
        raise ValueError(
            f"{name}: a {kind} is not allowed; it must be one data set with a length, whose "
            "examples are read by number (__len__ and __getitem__)"
        )
    if count == 0:
        raise ValueError(f"{name}: a {type(dataset).__name__} without images is not allowed")
    return count


def read_dataset(
    dataset: Any,
    name: str,
    *,
    image_key: str = "image",
    label_key: str = "label",
    mode: Mode | None = None,
    float_range: Range | None = None,
    num_workers: int = 0,
) -> ReadImages:
    """Reads all images of a data set, and their labels if it has any.

    An example is an image; a sequence that begins with one, whose second entry is the label; or a
    mapping. Images are PIL images; or uint8 or float tensors and arrays, ``(C, H, W)``,
    ``(H, W, C)`` or ``(H, W)``, of 1 or 3 channels. Random transforms are drawn once for each
    image.

    Args:
        dataset: Has ``__len__`` and ``__getitem__``.
        name: Of the argument, for messages.
        image_key: Key of the image in a mapping.
        label_key: Key of the label in a mapping.
        mode: ``"L"`` for grey PIL images, ``"RGB"`` for colour; None for what the first one is.
        float_range: Range of float images; None for (-1, 1) if there is a negative value among the
            first 256 images, and else (0, 1).
        num_workers: Processes that read.

    Raises:
        ValueError: If there are no images, they differ in shape, or one is something else.
    """
    count = check_mapped(dataset, name)
    examples = _Examples(Seeded(dataset, range(count)), image_key, label_key, mode)
    loader: DataLoader[Any] = DataLoader(
        examples,
        batch_size=_CHUNK,
        collate_fn=list,
        num_workers=num_workers,
        generator=torch.Generator(),
    )
    images: Tensor | None = None
    labels: list[int | None] = []
    found_range: Range | None = None
    try:
        for chunk in loader:
            pictures = [_alike(picture, chunk[0][0], images) for picture, _ in chunk]
            stacked = torch.stack(pictures)
            if stacked.is_floating_point():
                found_range = found_range or float_range or likely_range(stacked)
                stacked = _quantised(stacked, found_range)
            if images is None:
                images = torch.empty(count, *stacked.shape[1:], dtype=torch.uint8)
            images[len(labels) : len(labels) + len(stacked)] = stacked
            labels += [label for _, label in chunk]
    except ValueError as error:
        raise ValueError(f"{name}: {last_line(error).removeprefix('data: ')}") from error
    assert images is not None  # check_mapped has seen to it.
    found = [label for label in labels if label is not None]
    return ReadImages(images, torch.tensor(found) if len(found) == count else None, found_range)


def class_count(dataset: Any, labels: Tensor | None, label_key: str = "label") -> int | None:
    """Returns the number of classes: that which the data set states, or one above the last label.

    Example:
        >>> class_count(None, torch.tensor([0, 4, 1]))
        5
    """
    if labels is None:
        return None
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):  # Of Hugging Face.
        stated = getattr(features.get(label_key), "num_classes", None)
    else:
        classes = getattr(dataset, "classes", None)
        stated = len(classes) if isinstance(classes, list | tuple) else None
    return stated or int(labels.max()) + 1


class _Examples(Dataset[tuple[Tensor, int | None]]):
    """Images ``(C, H, W)`` and labels; the part of the work that several processes can do."""

    def __init__(self, dataset: Seeded, image_key: str, label_key: str, mode: Mode | None) -> None:
        self.dataset = dataset
        self.image_key = image_key
        self.label_key = label_key
        self.mode = mode

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | None]]:
        examples = self.dataset.__getitems__(indices)
        return [self._made(*pair) for pair in zip(indices, examples, strict=True)]

    def _made(self, index: int, example: Any) -> tuple[Tensor, int | None]:
        try:
            picture = _channels_first(picked(example, self.image_key), self.mode)
        except ValueError as error:
            said = str(error).removeprefix("data: ")
            raise ValueError(f"example {index}: {said}") from error
        return picture, _label(example, self.label_key)


def _channels_first(picture: Any, mode: Mode | None) -> Tensor:
    """Returns an image as uint8 or float ``(C, H, W)``."""
    if isinstance(picture, Image.Image):
        picture = np.array(_converted(picture, mode))
    if isinstance(picture, np.ndarray):
        # Of arrays the channels are rather the last axis.
        image = torch.from_numpy(np.ascontiguousarray(picture))
        axes = (2, 0)
    elif isinstance(picture, Tensor):
        image, axes = picture.detach(), (0, 2)
    else:
        raise ValueError(
            f"a {type(picture).__name__} is not allowed; an image must be a PIL image, a tensor or "
            "an array"
        )
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise ValueError(f"an image of {image.dtype} is not allowed; it must be uint8 or floats")
    if image.ndim == 2:
        image = image.unsqueeze(0)
        axes = (0, 2)
    if image.ndim == 3 and image.numel():
        for axis in axes:
            if image.shape[axis] in (1, 3):
                return image.movedim(axis, 0).contiguous()
    raise ValueError(
        f"an image of shape {tuple(picture.shape)} is not allowed; it must be (C, H, W), "
        "(H, W, C) or (H, W), with 1 or 3 channels"
    )


def _converted(picture: Image.Image, mode: Mode | None) -> Image.Image:
    if picture.mode.startswith(_WIDE):
        raise ValueError(
            f"a picture of mode {picture.mode} is not allowed, whose white is not known; convert "
            "it to L or RGB"
        )
    wanted = mode or ("L" if picture.mode in _GREY else "RGB")
    if picture.mode == "P":  # Its transparency is not always what RGB can be made of.
        picture = picture.convert("RGBA")
    return picture if picture.mode == wanted else picture.convert(wanted)


def _label(example: Any, key: str) -> int | None:
    """Returns the label of an example if it is a whole number."""
    if isinstance(example, Mapping):
        label = example.get(key)
    else:
        several = isinstance(example, list | tuple) and len(example) > 1
        label = example[1] if several else None
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return int(label)
    return None


def _alike(picture: Tensor, first: Tensor, images: Tensor | None) -> Tensor:
    """Returns an image of the shape of those before it."""
    shape = first.shape if images is None else images.shape[1:]
    if shape[0] == 3 and picture.shape == (1, *shape[1:]):
        return picture.expand(3, -1, -1)  # A grey one among colours.
    if picture.shape != shape or picture.dtype != first.dtype:
        raise ValueError(
            f"an image {tuple(picture.shape)} of {picture.dtype} is not allowed after one "
            f"{tuple(shape)} of {first.dtype}; all must be alike (torchvision: Resize and "
            "CenterCrop; mode='RGB' for grey among colours)"
        )
    return picture


def _quantised(images: Tensor, value_range: Range) -> Tensor:
    low, high = extremes(images)
    slack = 1e-3
    if low < value_range[0] - slack or high > value_range[1] + slack:
        raise ValueError(
            f"images that range over {low:.3g} to {high:.3g} are not allowed with a float_range of "
            f"{value_range[0]:g} to {value_range[1]:g}; they must be in it"
        )
    unit = (images.float() - value_range[0]) / (value_range[1] - value_range[0])
    return unit.clamp(0, 1).mul(255).round().to(torch.uint8)
