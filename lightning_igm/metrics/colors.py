"""The colours of coloured digits, and how far those of samples are from those of the data."""

import math

import torch
from torch import Tensor

__all__ = ["color_divergence", "main_colors"]

_STEPS = 10
_MOST = 5000  # Colours compared; the densities of all pairs are computed.
_ENTRIES = 2**22


@torch.no_grad()
def main_colors(images: Tensor) -> Tensor:
    """The colour of each image's drawing: the brighter centre of 2-means over its pixels.

    After the appendix of "Unrolled Generative Adversarial Networks" (Metz et al., 2016,
    https://arxiv.org/abs/1611.02163). The two centres start at the darkest and brightest pixel.

    Args:
        images: uint8 ``(N, 3, H, W)``.

    Returns:
        ``(N, 3)`` in [0, 1].

    Raises:
        ValueError: The images do not have three channels.

    Example:
        >>> import torch
        >>> image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> image[:, 0, 2:4] = 255
        >>> main_colors(image)
        tensor([[1., 0., 0.]])
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images: shape {tuple(images.shape)} is not allowed; it must be (N, 3, H, W)"
        )
    pixels = images.flatten(2).mT.float() / 255
    brightness = pixels.sum(2)
    ends = torch.stack([brightness.argmin(1), brightness.argmax(1)], 1)
    centers = pixels.gather(1, ends[..., None].expand(-1, -1, 3))
    for _ in range(_STEPS):
        distances = (pixels[:, None] - centers[:, :, None]).square().sum(3)
        brighter = (distances[:, 1] < distances[:, 0]).to(pixels)
        members = torch.stack([1 - brighter, brighter], 1)
        counts = members.sum(2, keepdim=True)
        centers = torch.where(counts > 0, members @ pixels / counts.clamp_min(1), centers)
    brightest = centers.sum(2).argmax(1)
    return centers[torch.arange(len(centers), device=centers.device), brightest]


@torch.no_grad()
def color_divergence(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Jensen-Shannon divergence between two sets of colours, in nats, and its standard error.

    Densities are Gaussian kernel estimates with Scott's bandwidth of the real colours, and without
    a point's own kernel; the divergence is the mean over the points of both sets of
    ``log p / ((p + q) / 2)``, from 0 to log 2 = 0.693, up to noise. The error is that of the mean
    over points, for the densities as they are.

    Args:
        real: ``(M, 3)``; 5,000 are used, evenly spaced among all.
        fake: ``(N, 3)``; as of the real ones.

    Raises:
        ValueError: The shapes do not match, or there are fewer than two colours.

    Example:
        >>> import torch
        >>> colors = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
        >>> divergence, error = color_divergence(colors, colors + 100)
        >>> round(divergence, 3)
        0.693
    """
    for kind, colors in (("real", real), ("generated", fake)):
        if colors.ndim != 2 or len(colors) < 2 or colors.shape[1] != real.shape[1]:
            raise ValueError(
                f"colors: {kind} ones of shape {tuple(colors.shape)} are not allowed; there must "
                "be two or more of one dimension"
            )
    real, fake = (colors[_spaced(len(colors))].double() for colors in (real, fake))
    dimension = real.shape[1]
    bandwidth = real.std(0).clamp_min(1e-3) * len(real) ** (-1 / (dimension + 4))
    real, fake = real / bandwidth, fake / bandwidth
    terms = []
    for own, other in ((real, fake), (fake, real)):
        p = _log_density(own, own, leave_out=True)
        q = _log_density(own, other, leave_out=False)
        terms.append(p - torch.logaddexp(p, q) + math.log(2))
    value = sum(float(term.mean()) for term in terms) / 2
    variance = sum(float(term.var() / len(term)) for term in terms) / 4
    return value, math.sqrt(variance)


def _spaced(count: int) -> Tensor:
    """Positions of at most 5,000 of ``count`` colours: the first may be those of one class."""
    kept = min(count, _MOST)
    return torch.arange(kept) * count // kept


def _log_density(points: Tensor, centers: Tensor, *, leave_out: bool) -> Tensor:
    """Logarithm ``(N,)`` of the kernel estimate at every point, up to one constant for all."""
    rows = max(1, _ENTRIES // len(centers))
    densities = []
    for start in range(0, len(points), rows):
        kernels = -0.5 * torch.cdist(points[start : start + rows], centers).square()
        if leave_out:
            kernels.diagonal(start).fill_(-math.inf)
        densities.append(kernels.logsumexp(1))
    return torch.cat(densities) - math.log(len(centers) - leave_out)
