"""The Color MNIST recipe: grey digits in random colours on a faintly noisy background."""

from __future__ import annotations

import torch
from torch import Tensor

COLOR_STD = 0.5
# Part of the definition: the generator draws chunk by chunk. Small enough to stay in the cache.
CHUNK = 250


def check_noise(noise: float) -> None:
    """Raises ValueError if ``noise`` is no standard deviation."""
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise={noise} must be a standard deviation, at least 0")


def colorize_float(grey: Tensor, generator: torch.Generator, noise: float = 0.2) -> Tensor:
    """Gives each grey image one random colour, and noise all over.

    With a grey image I in [0, 1], one C ~ N(0, 0.5²) per image and channel, and one
    ε ~ N(0, noise²) per value: ``x = clip(I·C + (I - 1) + ε, -1, 1)``; the result is (x + 1) / 2.
    The background is thus max(0, N(0, (noise / 2)²)). From the appendix of Unrolled Generative
    Adversarial Networks (Metz et al., 2016, https://arxiv.org/abs/1611.02163).

    Args:
        grey: ``(N, 1, H, W)`` in [0, 1].
        generator: Draws the colours first, then the noise.
        noise: Standard deviation of the noise on [-1, 1]; 0.1 makes an easier set than 0.2.

    Returns:
        Images ``(N, 3, H, W)`` in [0, 1].

    Example:
        >>> black = torch.zeros(2, 1, 8, 8)
        >>> colorize_float(black, torch.Generator().manual_seed(0), noise=0.0).max()
        tensor(0.)
    """
    count, _, height, width = grey.shape
    color = COLOR_STD * torch.randn(count, 3, 1, 1, generator=generator)
    x = torch.randn(count, 3, height, width, generator=generator).mul_(noise)
    x.add_(grey * color).add_(grey - 1)
    return x.clamp_(-1, 1).add_(1).div_(2)


def colorize(grey: Tensor, seed: int, noise: float = 0.2) -> Tensor:
    """Applies `colorize_float` to a whole data set in small chunks, and rounds to uint8.

    Only exact zeros become 0 and only exact ones 255, so that the images keep the share of clipped
    values that the recipe gives (50 % zeros on the background): other values round to 1 to 254.

    Args:
        grey: ``(N, 1, H, W)``, uint8 or float in [0, 1].
        seed: The same seed gives the same bytes; the global random state is neither read nor moved.
        noise: Standard deviation of the noise on [-1, 1].

    Returns:
        Images ``(N, 3, H, W)``, uint8.

    Raises:
        ValueError: If ``grey`` has another shape, or ``noise`` is negative.

    Example:
        >>> digits = torch.rand(10, 1, 8, 8)
        >>> images = colorize(digits, seed=0)
        >>> images.shape, images.dtype
        (torch.Size([10, 3, 8, 8]), torch.uint8)
    """
    check_noise(noise)
    if grey.ndim != 4 or grey.shape[1] != 1:
        raise ValueError(f"grey has shape {tuple(grey.shape)}, expected (N, 1, H, W)")
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = grey.shape
    images = torch.empty(count, 3, height, width, dtype=torch.uint8)
    for chunk, out in zip(torch.split(grey, CHUNK), torch.split(images, CHUNK), strict=True):
        unit = chunk.float() / 255 if chunk.dtype == torch.uint8 else chunk
        floats = colorize_float(unit, generator, noise)
        codes = floats.mul(255).round_()
        out.copy_(codes.clamp(1, 254).where((floats > 0) & (floats < 1), codes))
    return images
