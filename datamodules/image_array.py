"""Images in a NumPy file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.images import ImageDataModule


class ImageArrayDataModule(ImageDataModule):
    """uint8 images in ``.npy`` files, or ``.npz`` files of one array.

    The arrays are ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels, or ``(N, H, W)``.
    Where both of the first two would fit, the channels are the last axis.

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
        train = _read(self.train, "train")
        return train, train if self.test is None else _read(self.test, "test")


def _read(path: Path, argument: str) -> Tensor:
    """Returns the images of one file as uint8 ``(N, C, H, W)``."""
    where = f"{argument}={str(path)!r}"
    if not path.is_file():
        raise FileNotFoundError(f"{where} is not a file; give a .npy or .npz file of uint8 images")
    try:
        array = _load(path)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is no complete .npy, or .npz of one array ({reason})") from error
    if array.dtype != np.uint8:
        raise ValueError(f"{where} holds {array.dtype} values, expected uint8")
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
    return images.contiguous()


def _load(path: Path) -> npt.NDArray[np.generic]:
    # NumPy leaves the file open when it turns out to be damaged.
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        if len(loaded.files) != 1:
            raise ValueError(f"{len(loaded.files)} arrays: {', '.join(loaded.files)}")
        return np.asarray(loaded[loaded.files[0]])
