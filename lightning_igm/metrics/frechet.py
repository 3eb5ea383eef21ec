"""The Fréchet distance between two Gaussians."""

import torch
from torch import Tensor

__all__ = ["frechet_distance", "moments"]


@torch.no_grad()
def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared Fréchet (2-Wasserstein) distance between N(mean1, cov1) and N(mean2, cov2).

    "The Fréchet distance between multivariate normal distributions" (Dowson and Landau, 1982); FID
    is its value for Inception features (Heusel et al., 2017, https://arxiv.org/abs/1706.08500)::

        ||mean1 - mean2||^2 + tr(cov1) + tr(cov2) - 2 tr((cov1 cov2)^(1/2))

    The last trace is that of the root of ``R cov2 R`` with R the symmetric root of cov1: two
    symmetric eigenvalue problems in float64, also for covariances that are singular.

    Args:
        mean1: ``(D,)``.
        cov1: ``(D, D)``, symmetric and positive semidefinite.
        mean2: ``(D,)``.
        cov2: ``(D, D)``.

    Returns:
        ``()``, float64, not negative.

    Raises:
        ValueError: The shapes do not match, or a value is not finite.

    Example:
        >>> import torch
        >>> eye = torch.eye(3)
        >>> frechet_distance(torch.zeros(3), eye, torch.ones(3), 4 * eye)
        tensor(6., dtype=torch.float64)
    """
    shapes = [tuple(t.shape) for t in (mean1, cov1, mean2, cov2)]
    d = mean1.shape[0] if mean1.dim() == 1 else -1
    if shapes != [(d,), (d, d)] * 2:
        raise ValueError(
            f"mean1, cov1, mean2, cov2: shapes {shapes} are not allowed; they must be (D,), "
            "(D, D), (D,) and (D, D)"
        )
    mean1, cov1, mean2, cov2 = (t.double() for t in (mean1, cov1, mean2, cov2))
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()
    if not (distance.isfinite() and cov1.isfinite().all() and cov2.isfinite().all()):
        raise ValueError("mean1, cov1, mean2, cov2: values that are not finite are not allowed")
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    overlap = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    squared: Tensor = (distance - 2 * overlap).clamp_min(0)
    return squared


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and covariance ``(D, D)`` (over N - 1) of features ``(N, D)``, in float64.

    Raises:
        ValueError: There are fewer than two features.
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(
            f"features: shape {tuple(features.shape)} is not allowed; it must be (N, D) with 2 or "
            "more rows"
        )
    features = features.double()
    return features.mean(0), torch.cov(features.mT).reshape(features.shape[1], -1)
