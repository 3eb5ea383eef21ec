"""How many samples lie among the data, and how much of the data among the samples."""

import torch
from torch import Tensor

from lightning_igm.checks import positive

__all__ = ["precision_recall"]

_ENTRIES = 2**23  # Distances held at a time.
_CHUNK = 4096  # Centres in float64 at a time.


@torch.no_grad()
def precision_recall(
    real: Tensor, fake: Tensor, *, neighbors: int = 3, device: torch.device | None = None
) -> tuple[float, float]:
    """Share of samples inside the data's manifold, and of the data inside the samples'.

    "Improved Precision and Recall Metric for Assessing Generative Models" (Kynkäänniemi et al.,
    2019, https://arxiv.org/abs/1904.06991): a manifold is the union of balls around its points,
    each out to its k-th nearest neighbour. Both depend on the number of points. The standard error
    of a share p of N points is ``sqrt(p (1 - p) / N)``.

    Args:
        real: ``(M, D)``.
        fake: ``(N, D)``.
        neighbors: The k.
        device: Where to compute, chunk by chunk; where ``real`` is by default.

    Returns:
        Precision and recall.

    Raises:
        ValueError: There are not more points than ``neighbors``, or the shapes do not match.

    Example:
        >>> import torch
        >>> points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> precision_recall(points, points[:1] + 0.01 * points)
        (1.0, 0.02)
    """
    positive("neighbors", neighbors)
    for kind, points in (("real", real), ("generated", fake)):
        if points.ndim != 2 or points.shape[1:] != real.shape[1:] or len(points) <= neighbors:
            raise ValueError(
                f"precision and recall: {kind} features {tuple(points.shape)} are not allowed; "
                f"there must be more than {neighbors} of the {tuple(real.shape[1:])} of the real"
            )
    device = device or real.device
    precision = _covered(fake, real, _radii(real, neighbors, device), device)
    recall = _covered(real, fake, _radii(fake, neighbors, device), device)
    return precision, recall


def _radii(points: Tensor, neighbors: int, device: torch.device) -> Tensor:
    """Squared distance ``(N,)`` of each point to its k-th neighbour."""
    rows = max(1, _ENTRIES // len(points))
    chunks = (_squares(part, points, device) for part in points.split(rows))
    # The nearest point of all is the point itself.
    return torch.cat([chunk.kthvalue(neighbors + 1).values for chunk in chunks])


def _covered(points: Tensor, centers: Tensor, radii: Tensor, device: torch.device) -> float:
    rows = max(1, _ENTRIES // len(centers))
    chunks = (_squares(part, centers, device) for part in points.split(rows))
    return float(torch.cat([(chunk <= radii).any(1) for chunk in chunks]).double().mean())


def _squares(points: Tensor, centers: Tensor, device: torch.device) -> Tensor:
    """Squared distances ``(N, M)``; in float64, so that a point is at distance zero from itself."""
    points = points.to(device).double()
    norms = points.square().sum(1, keepdim=True)
    parts = []
    for part in centers.split(_CHUNK):
        part = part.to(device).double()
        parts.append(norms + part.square().sum(1) - 2 * points @ part.mT)
    return torch.cat(parts, 1)
