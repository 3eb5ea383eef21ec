"""scikit-learn's 8x8 digits in random colours: the data set that needs no download."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_igm.data.color import check_noise, colorize
from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.sampler import stream_seed


class DigitsDataModule(ImageDataModule):
    """The 1,797 digits bundled with scikit-learn, enlarged and coloured as in Color MNIST.

    Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49):
    8x8 images with 17 grey levels, enlarged bilinearly inside a black border of an eighth of
    ``size``. There is no held-out part: training, validation and test images are the same.

    Args:
        batch_size: Images per batch and process.
        size: Height and width in pixels, at least 8.
        noise: Standard deviation of the noise; see `lightning_igm.data.color.colorize_float`.
        seed: Seed of the colours, the noise and the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> digits = DigitsDataModule(batch_size=100, size=16)
        >>> digits.setup()
        >>> next(iter(digits.train_dataloader())).shape
        torch.Size([100, 3, 16, 16])
    """

    name = "digits"
    num_classes = 10

    def __init__(
        self,
        batch_size: int = 100,
        size: int = 32,
        noise: float = 0.2,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        if size < 8:
            raise ValueError(f"size={size} must be at least 8, the size of the original digits")
        check_noise(noise)
        self.noise = noise
        self.image_shape = (3, size, size)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the digits, twice; sets ``train_labels`` and ``test_labels``, int64 ``(N,)``."""
        # scikit-learn takes a second to import, and only this data set needs it.
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        images = colorize(
            _enlarge(grey, self.image_shape[1]), stream_seed(self.seed, 0), self.noise
        )
        self.train_labels = self.test_labels = torch.from_numpy(digits.target).long()
        return images, images


def _enlarge(grey: Tensor, size: int) -> Tensor:
    inner = max(8, size - 2 * (size // 8))
    before = (size - inner) // 2
    after = size - inner - before
    larger = F.interpolate(grey, size=(inner, inner), mode="bilinear", align_corners=False)
    return F.pad(larger, (before, after, before, after))
