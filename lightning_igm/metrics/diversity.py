"""How alike the images of one set are."""

import numpy as np
import torch
from torch import Tensor

from lightning_igm.checks import positive
from lightning_igm.metrics.ms_ssim import ms_ssim

__all__ = ["mean_similarity"]

_CHUNK = 500


@torch.no_grad()
def mean_similarity(
    images: Tensor,
    *,
    pairs: int = 10_000,
    seed: int = 0,
    device: torch.device | None = None,
) -> tuple[float, float]:
    """Mean MS-SSIM over random pairs of distinct images, and its standard error.

    "Conditional Image Synthesis with Auxiliary Classifier GANs" (Odena et al., 2017,
    https://arxiv.org/abs/1610.09585), in the variant of
    :func:`~lightning_igm.metrics.ms_ssim`: the lower, the more diverse. Only the ratio to the
    data's own value means anything. Images are used as evenly as can be: with 2 x ``pairs`` of them
    or more, each at most once. The error takes into account that pairs share images where there are
    fewer: it is the root of ``sum of e_p e_q over pairs p, q that share an image / pairs^2``.

    Args:
        images: uint8 ``(N, C, H, W)``.
        pairs: Number of pairs.
        seed: Seed of the pairs.
        device: Where to compute; where the images are by default.

    Raises:
        ValueError: There are fewer than two images, or they have no pixels.

    Example:
        >>> import torch
        >>> noise = torch.randint(256, (20, 1, 16, 16), dtype=torch.uint8)
        >>> mean, error = mean_similarity(noise, pairs=50)
        >>> 0 < mean < 0.5
        True
    """
    positive("pairs", pairs)
    if images.ndim != 4 or images.dtype != torch.uint8 or len(images) < 2:
        raise ValueError(
            f"images: {images.dtype} {tuple(images.shape)} is not allowed; they must be uint8 "
            "(N, C, H, W), two or more"
        )
    first, second = _pairs(len(images), pairs, seed)
    values = torch.cat(
        [
            ms_ssim(
                images[a].to(device or images.device),
                images[b].to(device or images.device),
                data_range=255,
            ).cpu()
            for a, b in zip(first.split(_CHUNK), second.split(_CHUNK), strict=True)
        ]
    ).double()
    mean = values.mean()
    residuals = values - mean
    shared = torch.zeros(len(images), dtype=torch.float64)
    shared = shared.index_add(0, first, residuals).index_add(0, second, residuals)
    own = residuals.square().sum()
    variance = (shared.square().sum() - own).clamp_min(own) / pairs**2
    return float(mean), float(variance.sqrt())


def _pairs(count: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices ``(pairs,)`` of first and second images: rounds of a shuffle, in neighbours."""
    draw = np.random.RandomState(seed)
    each = count // 2
    rounds = [
        draw.permutation(count)[: 2 * each].reshape(each, 2) for _ in range(-(-pairs // each))
    ]
    both = torch.from_numpy(np.concatenate(rounds)[:pairs])
    return both[:, 0], both[:, 1]
