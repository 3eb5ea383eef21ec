"""Images in a NumPy file."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_igm.data.images import ImageDataModule


class ImageArrayDataModule(ImageDataModule):
    """uint8 images in ``.npy`` files, which are mapped rather than read, or in ``.npz`` files.

    The arrays are ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels, or ``(N, H, W)``.
    Where both of the first two would fit, the channels are the last axis. Of several arrays in a
    ``.npz`` file, the one named ``images`` is taken.

    Args:
        train: File of the training images.
        test: File of the test images; without one, the training images serve again.
        batch_size: Images per batch and process.
        seed: Seed of the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range, or a file holds something else.
        FileNotFoundError: If a file is missing.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> np.save(f"{folder.name}/images.npy", np.zeros((20, 16, 16, 3), np.uint8))
        >>> data = ImageArrayDataModule(f"{folder.name}/images.npy", batch_size=10)
        >>> data.setup()
        >>> data.image_shape
        (3, 16, 16)
        >>> folder.cleanup()
    """

    name = "image_array"

    def __init__(
        self,
        train: str | Path,
        test: str | Path | None = None,
        batch_size: int = 100,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        self.train = Path(train)
        self.test = None if test is None else Path(test)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images of the two files."""
        train = read_images(self.train, f"train={str(self.train)!r}")
        if self.test is None:
            return train, train
        return train, read_images(self.test, f"test={str(self.test)!r}")


def read_images(path: Path, where: str) -> Tensor:
    """Returns the images of one file as uint8 ``(N, C, H, W)``; a view that must not be written to.

    Args:
        path: A ``.npy`` or ``.npz`` file.
        where: Names the file in messages.

    Raises:
        ValueError: If the file holds something else.
        FileNotFoundError: If there is no such file.
    """
    array = read_array(path, where)
    if array.dtype != np.uint8:
        raise ValueError(f"{where} holds {array.dtype} values, expected uint8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images = torch.from_numpy(array)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(
            f"{where} has shape {array.shape}, expected (N, H, W, C) or (N, C, H, W)"
            " with 1 or 3 channels, or (N, H, W)"
        )
    return images


def read_array(path: Path, where: str) -> npt.NDArray[Any]:
    """Returns the array of one file, mapped if it is a ``.npy`` file.

    Args:
        path: A ``.npy`` or ``.npz`` file.
        where: Names the file in messages.

    Raises:
        ValueError: If the file is damaged, or does not hold one array.
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{where} is not a file; give a .npy or .npz file of an array")
    try:
        return _load(path)
    except (ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is no complete .npy, or .npz of one array ({reason})") from error


def _load(path: Path) -> npt.NDArray[Any]:
    # NumPy leaves a file that it opened itself open when it turns out to be a damaged .npz.
    with path.open("rb") as file:
        magic = file.read(6)
        if magic == np.lib.format.MAGIC_PREFIX:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if not magic.startswith(b"PK"):
            raise ValueError("it begins like neither")
        file.seek(0)
        arrays = np.load(file, allow_pickle=False)
        names = list(arrays)
        if len(names) != 1 and "images" not in names:
            raise ValueError(f"{len(names)} arrays, none named images: {', '.join(names)}")
        return np.asarray(arrays["images" if "images" in names else names[0]])
