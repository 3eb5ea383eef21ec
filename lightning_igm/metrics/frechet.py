"""The Fréchet distance between two Gaussians."""

import torch
from torch import Tensor

__all__ = ["check_count", "frechet_distance", "frechet_error", "moments"]

_CHUNK = 2048  # Samples in float64 at a time.
_BLOCK = 256  # Columns of a product at a time.
_ROUNDING = 1e-6  # Of a matrix, relative to its largest entry.


@torch.no_grad()
def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared Fréchet (2-Wasserstein) distance between N(mean1, cov1) and N(mean2, cov2).

    "The Fréchet distance between multivariate normal distributions" (Dowson and Landau, 1982); FID
    is its value for Inception features (Heusel et al., 2017, https://arxiv.org/abs/1706.08500)::

        ||mean1 - mean2||^2 + tr(cov1) + tr(cov2) - 2 tr((cov1 cov2)^(1/2))

    The last trace is that of the root of ``F' cov1 F`` with ``F F' = cov2``: F is a Cholesky
    factor, or made of eigenvectors where cov2 is singular. That is a symmetric eigenvalue problem,
    in float64.

    Args:
        mean1: ``(D,)``.
        cov1: ``(D, D)``, symmetric and positive semidefinite.
        mean2: ``(D,)``.
        cov2: ``(D, D)``.

    Returns:
        ``()``, float64, not negative.

    Raises:
        ValueError: The shapes do not match, a value is not finite, or a covariance is none.

    Example:
        >>> import torch
        >>> eye = torch.eye(3)
        >>> frechet_distance(torch.zeros(3), eye, torch.ones(3), 4 * eye)
        tensor(6., dtype=torch.float64)
    """
    distance, _, product = _parts(mean1, cov1, mean2, cov2)
    values = torch.linalg.eigvalsh(product)
    if values[0] < -_ROUNDING * _scale(mean1, cov1) * _scale(mean2, cov2):
        raise ValueError("cov1: a matrix that is not positive semidefinite is not allowed")
    overlap = values.clamp_min(0).sqrt().sum()
    squared: Tensor = (distance - 2 * overlap).clamp_min(0)
    return squared


@torch.no_grad()
def frechet_error(
    mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, samples2: Tensor
) -> tuple[Tensor, Tensor]:
    """Fréchet distance, and its standard error over fresh samples of the second Gaussian's kind.

    The first order of what one sample x does to the distance (the delta method, or infinitesimal
    jackknife) is, with T the linear map that takes the second Gaussian to the first,
    ``|x - mean2|^2 - 2 (mean1 - mean2) (x - mean2) - (x - mean2) T (x - mean2)``; the error is its
    standard deviation over the root of the number of samples. Resampling with replacement would
    overstate it: repeated samples make a covariance smaller than it is.

    Args:
        mean1: ``(D,)``.
        cov1: ``(D, D)``.
        mean2: ``(D,)``, of the samples.
        cov2: ``(D, D)``, of the samples.
        samples2: ``(N, D)``, of any floating type.

    Returns:
        Distance and error, ``()`` each, float64.

    Raises:
        ValueError: The shapes do not match, or a value is not finite.

    Example:
        >>> import torch
        >>> samples = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) + 1
        >>> mean, cov = moments(samples)
        >>> distance, error = frechet_error(torch.zeros(3), torch.eye(3), mean, cov, samples)
        >>> bool((distance - 3).abs() < 3 * error)
        True
    """
    if samples2.shape[1:] != mean2.shape or len(samples2) < 2:
        raise ValueError(
            f"samples2: shape {tuple(samples2.shape)} is not allowed; it must be "
            f"(N, {len(mean2)}) with 2 or more rows"
        )
    distance, factor, product = _parts(mean1, cov1, mean2, cov2)
    values, vectors = torch.linalg.eigh(product)
    roots = values.clamp_min(0).sqrt()
    half = vectors.mT @ _inverse(factor)
    transport = (half.mT * roots) @ half
    influence = torch.cat([_influence(x, mean1, mean2, transport) for x in samples2.split(_CHUNK)])
    error = influence.std() / len(samples2) ** 0.5
    return (distance - 2 * roots.sum()).clamp_min(0), error


def _influence(samples: Tensor, mean1: Tensor, mean2: Tensor, transport: Tensor) -> Tensor:
    mean1, mean2 = mean1.double(), mean2.double()
    x = samples.to(mean2) - mean2
    return x.square().sum(1) - 2 * x @ (mean1 - mean2) - (x @ transport * x).sum(1)


def _parts(
    mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The distance without its last trace, F, and the lower triangle of ``F' cov1 F``."""
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
    slack = _ROUNDING * torch.stack([_scale(mean1, cov1), _scale(mean2, cov2)])
    for name, cov, least in (("cov1", cov1, slack[0]), ("cov2", cov2, slack[1])):
        if (cov - cov.mT).abs().max() > least:
            raise ValueError(f"{name}: a matrix that is not symmetric is not allowed")
        if cov.diagonal().min() < -least:
            raise ValueError(f"{name}: a negative variance is not allowed")
    factor, failed = torch.linalg.cholesky_ex(cov2)
    if failed:
        values, vectors = torch.linalg.eigh(cov2)
        if values[0] < -slack[1]:
            raise ValueError("cov2: a matrix that is not positive semidefinite is not allowed")
        factor = vectors * values.clamp_min(0).sqrt()
        return distance, factor, factor.mT @ cov1 @ factor
    # Half of the work: the factor is triangular, and eigenvalues need the lower triangle only.
    product = torch.zeros_like(cov1)
    for start in range(0, d, _BLOCK):
        columns = slice(start, start + _BLOCK)
        right = cov1[:, start:] @ factor[start:, columns]
        product[start:, columns] = factor[start:, start:].mT @ right[start:]
    return distance, factor, product


def _scale(mean: Tensor, cov: Tensor) -> Tensor:
    """Size of the sums that a covariance is made of, whose rounding is in it."""
    return cov.diagonal().abs().max().double() + mean.square().max().double()


def _inverse(factor: Tensor) -> Tensor:
    if factor.triu(1).any():
        inverse: Tensor = torch.linalg.pinv(factor)
    else:
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse


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


def check_count(kind: str, count: int, num_features: int) -> None:
    """Refuse so few images that a covariance would be singular.

    Args:
        kind: ``real`` or ``generated``.
        count: Number of images.
        num_features: Size of the covariances.

    Raises:
        ValueError: There are no more images than features.
    """
    if count <= num_features:
        raise ValueError(
            f"FID with {num_features} features needs more than {num_features} {kind} images, "
            f"got {count}"
        )
