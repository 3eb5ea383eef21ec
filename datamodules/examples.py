"""The images in what data sets and loaders give: tensors, tuples, dictionaries, pictures."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

Range = tuple[float, float]

_SLACK = 1e-3
# Standardised images stay well below the second; from 0 on, pixels of 0 to 255 go beyond the first.
_PIXELS, _FAR = 2.0, 10.0
# Takes the seeds of neighbouring rows far from one another.
_ODD = 2654435761


def picked(item: Any, key: str = "image") -> Any:
    """Returns the images of a batch, or the image of an example.

    Args:
        item: Images; a sequence that begins with them; or a mapping that has them under ``key``.
        key: See there.

    Raises:
        ValueError: If a mapping has no such key, or a sequence is empty.

    Example:
        >>> picked(("picture", 7)), picked({"image": "picture", "label": 7})
        ('picture', 'picture')
    """
    if isinstance(item, Mapping):
        if key not in item:
            found = ", ".join(map(str, item)) or "none"
            raise ValueError(f"data: a dictionary of {found} is not allowed; it must have {key!r}")
        return picked(item[key], key)
    if isinstance(item, list | tuple):
        if not item:
            raise ValueError(f"data: an empty {type(item).__name__} has no images")
        return picked(item[0], key) if isinstance(item[0], list | tuple | Mapping) else item[0]
    return item


def image_tensor(batch: Any) -> Tensor:
    """Returns the images ``(N, C, H, W)``, or points ``(N, D)``, of a batch as they are.

    Args:
        batch: See `picked`.

    Raises:
        ValueError: If there are none, or they are neither floats nor uint8.
    """
    images = picked(batch)
    if not isinstance(images, Tensor):
        raise ValueError(
            f"data: images in a {type(images).__name__} are not allowed; a batch must have them in "
            "one tensor (N, C, H, W): let the data set give tensors of one size (torchvision: "
            "ToTensor(); Hugging Face: with_format('torch'))"
        )
    if images.ndim < 2:
        raise ValueError(
            f"data: images of shape {tuple(images.shape)} are not allowed; they must be "
            "(N, C, H, W), or points (N, D)"
        )
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise ValueError(f"data: images of {images.dtype} are not allowed; give uint8 or floats")
    return images


def as_floats(images: Tensor, value_range: Range) -> Tensor:
    """Returns uint8 images as float32 in a range; any other tensor unchanged.

    Example:
        >>> as_floats(torch.tensor([0, 255], dtype=torch.uint8), (-1.0, 1.0))
        tensor([-1.,  1.])
    """
    if images.dtype != torch.uint8:
        return images
    # A division of integers makes floats in one pass.
    return images.div(255) if value_range == (0.0, 1.0) else images.div(127.5).sub_(1)


def likely_range(images: Tensor) -> Range:
    """Returns the range that float images are in: (-1, 1) if a value is negative, else (0, 1).

    Raises:
        ValueError: If they are in neither of the two.

    Example:
        >>> likely_range(torch.tensor([0.25, 1.0]))
        (0.0, 1.0)
    """
    low, high = extremes(images)
    if low < -1 - _SLACK or high > 1 + _SLACK:
        raise ValueError(
            f"data: images that range over {low:.3g} to {high:.3g} are not allowed; they must be "
            "uint8, or floats of 0 to 1 or -1 to 1"
        )
    return (-1.0, 1.0) if low < 0 else (0.0, 1.0)


def extremes(images: Tensor) -> Range:
    """Returns the smallest and the largest value.

    Raises:
        ValueError: If one is not finite.
    """
    low, high = (float(value) for value in images.detach().aminmax())
    if not math.isfinite(high - low):
        raise ValueError("data: values of NaN or infinity are not allowed; they must be finite")
    return low, high


def range_mismatch(images: Tensor, made: Range | None) -> str | None:
    """Returns one line if float images do not use the range that a generator makes, else None.

    Args:
        images: ``(N, C, H, W)``.
        made: None if it is not known.

    Raises:
        ValueError: If a value is not finite, or far from what the generator makes.
    """
    low, high = extremes(images)
    if made is None:
        return None
    if high > (_PIXELS if low >= 0 else _FAR) or low < -_FAR:
        raise ValueError(
            f"data: float images that range over {low:.3g} to {high:.3g} are not allowed; they "
            f"must range over {made[0]:g} to {made[1]:g}, as the generator's do, or be uint8"
        )
    slack = _SLACK * (made[1] - made[0])
    within = made[0] - slack <= low and high <= made[1] + slack
    if within and (made[0] >= 0 or low < 0):
        return None
    return (
        f"data: images range over {low:.3g} to {high:.3g} in the first batch, and the generator "
        f"makes {made[0]:g} to {made[1]:g}; bring them to one range (torchvision: ToTensor() gives "
        "0 to 1, and Normalize([0.5], [0.5]) after it -1 to 1)"
    )


def mapped_length(dataset: Any) -> int | None:
    """Returns the number of examples that can be read by number, or None."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    return len(dataset) if hasattr(dataset, "__len__") else None


def last_line(error: BaseException) -> str:
    """Returns what an error says in one line, also one that a worker process raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1].partition(": ")[2] if lines[0].startswith("Caught ") else lines[0]


class Seeded(Dataset[Any]):
    """Rows of a map-style data set, each with random numbers that its row alone decides.

    Random transforms give the same in every pass, in any process and worker, and leave the global
    random states of torch (on the CPU), NumPy and Python where they were.

    Args:
        dataset: Has ``__getitem__``.
        rows: Numbers of its examples.
    """

    def __init__(self, dataset: Any, rows: Sequence[int]) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        with kept_random_states():
            return [self._read(self.rows[index]) for index in indices]

    def _read(self, row: int) -> Any:
        _seed(row * _ODD % 2**32)
        return self.dataset[row]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global random states of the CPU, and puts them back afterwards.

    Example:
        >>> with seeded(1):
        ...     first = torch.rand(1)
        >>> with seeded(1):
        ...     bool(torch.rand(1) == first)
        True
    """
    with kept_random_states():
        _seed(seed)
        yield


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Puts the global random states of the CPU back afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def _seed(seed: int) -> None:
    # Not torch.manual_seed, which would seed the generators of GPUs, too.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def images_from(batch: Any, data: Any, made_range: Range | None) -> Tensor:
    """Takes the images of a batch; uint8 ones become floats.

    Args:
        batch: A tensor, what begins with one, or a dictionary that has one under ``image``.
        data: The trainer's; those of ordinary loaders check the images' shape and range.
        made_range: The generator's, if the data have none; (0, 1) if neither has.

    Returns:
        ``(N, C, H, W)``, or points ``(N, D)``.

    Raises:
        ValueError: If there are none, or they have another shape than those before.
    """
    images = image_tensor(batch)
    if hasattr(data, "check"):
        data.check(images)
    if images.dtype == torch.uint8:
        value_range = getattr(data, "value_range", None) or made_range
        images = as_floats(images, value_range or (0.0, 1.0))
    return images
