"""Distances of the moments of fakes' features from those of the data's, which are constants."""

import torch
from torch import Tensor

from lightning_igm.distributed import all_mean, all_sum, world_size
from lightning_igm.losses._support import as_features, autocast_off

__all__ = [
    "FeatureMoments",
    "batch_moments",
    "check_covariance",
    "frechet_loss",
    "mean_and_variance_loss",
]


class FeatureMoments:
    """Mean and variances, or covariance, of features that come in batches; in float64.

    Args:
        covariance: Whether to keep the covariance.

    Example:
        >>> import torch
        >>> moments = FeatureMoments()
        >>> moments.update(torch.tensor([[1.0], [3.0]]))
        >>> [found.tolist() for found in moments.compute()]
        [[2.0], [2.0]]
    """

    def __init__(self, covariance: bool = False) -> None:
        self.covariance = covariance
        self.count = 0
        self.total: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """Add features ``(N, D)``."""
        rows = features.detach().double()
        squares = rows.mT @ rows if self.covariance else rows.square().sum(0)
        self.count += len(rows)
        self.total = rows.sum(0) if self.total is None else self.total + rows.sum(0)
        self.squares = squares if self.squares is None else self.squares + squares

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and variances ``(D,)`` or covariance ``(D, D)``, of all ranks' features.

        Raises:
            ValueError: There are no features.
        """
        if self.total is None or self.squares is None:
            raise ValueError("data: the training set is empty; it must have two images or more")
        count = all_sum(torch.full((), float(self.count), device=self.total.device).double())
        mean, squares = all_sum(self.total) / count, all_sum(self.squares) / count
        products = torch.outer(mean, mean) if self.covariance else mean.square()
        return mean, (squares - products) * (count / (count - 1))


def batch_moments(features: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and variances ``(D,)`` (divisor N - 1) of all ranks' features, less a centre.

    Args:
        features: ``(N, D)``.
        centre: ``(D,)``, near the mean, so that few digits are lost.

    Raises:
        ValueError: There are fewer than two.
    """
    rows = as_features("fake", features)
    count = world_size() * len(rows)
    if count < 2:
        raise ValueError(f"fake: a batch of {count} is not allowed; it must have 2 or more")
    with autocast_off(rows):
        rows = rows - centre.to(rows.dtype)
        mean, square = all_mean(torch.stack([rows.mean(0), rows.square().mean(0)])).unbind()
        return mean, (square - mean.square()) * (count / (count - 1))


def mean_and_variance_loss(fake: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Mean squared differences of the means and of the variances of features.

    "Learning Implicit Generative Models by Matching Perceptual Features" (dos Santos, Mroueh,
    Padhi and Dognin, ICCV 2019, https://arxiv.org/abs/1904.02762), Eq. 1 with means over the
    features, of a batch alone::

        L = mean_d (m_d - mean_d)^2 + mean_d (v_d - variance_d)^2

    Args:
        fake: Features ``(N, D)``.
        mean: ``(D,)``, of the data.
        variance: ``(D,)``, of the data.

    Returns:
        ``()``, of all ranks' fakes.

    Raises:
        ValueError: The shapes do not fit, or there are fewer than two fakes.

    Example:
        >>> import torch
        >>> fake = torch.tensor([[0.0], [2.0]])
        >>> mean_and_variance_loss(fake, torch.zeros(1), torch.ones(1))
        tensor(2.)
    """
    fake = as_features("fake", fake)
    _check_shape("mean", mean, fake.shape[1:])
    _check_shape("variance", variance, fake.shape[1:])
    shift, spread = batch_moments(fake, mean)
    return shift.square().mean() + (spread - variance.to(spread.dtype)).square().mean()


def frechet_loss(fake: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, the fakes' and the data's.

    "FD-loss" (Yang et al., 2026, https://arxiv.org/abs/2604.28190), of a batch alone::

        L = ||m - mean||^2 + tr C + tr covariance - 2 tr (R C R)^(1/2),   R = covariance^(1/2)

    Its gradient needs no derivative of an eigensolver: it is ``I - R (R C R)^(-1/2) R`` in C. It is
    computed in float64, which the host waits for.

    Args:
        fake: Features ``(N, D)``, more than there are features.
        mean: ``(D,)``, of the data.
        covariance: ``(D, D)``, of the data.

    Returns:
        ``()``, of all ranks' fakes, in float64.

    Raises:
        ValueError: The shapes do not fit, or there are too few fakes.

    Example:
        >>> import torch
        >>> fake = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> frechet_loss(fake, torch.ones(1), torch.full((1, 1), 4.0)).item()
        2.0
    """
    rows = as_features("fake", fake).double()
    count, size = world_size() * len(rows), rows.shape[1]
    _check_shape("mean", mean, (size,))
    _check_shape("covariance", covariance, (size, size))
    check_covariance(count, size)
    with autocast_off(rows):
        rows = rows - mean.double()
        second = all_mean(torch.cat([rows.mean(0)[None], rows.mT @ rows / len(rows)]))
        shift, products = second[0], second[1:]
        spread = (products - torch.outer(shift, shift)) * (count / (count - 1))
        with torch.no_grad():
            root = _power(covariance.double(), 0.5)
            inner = root @ spread @ root
            slope = torch.eye(size).to(root) - root @ _power(inner, -0.5) @ root
            value = shift.square().sum() + (spread + covariance).trace()
            value = value - 2 * _power(inner, 0.5).trace()
        surrogate = shift.square().sum() + (slope * spread).sum()
        return value + surrogate - surrogate.detach()


def check_covariance(count: int, size: int) -> None:
    """Check that the covariance of a batch is not singular.

    Args:
        count: Images of all ranks.
        size: Features.

    Raises:
        ValueError: It is.
    """
    if count <= size:
        raise ValueError(
            f"fake: a batch of {count} is not allowed with {size} features, whose covariance would "
            "be singular; it must have more than there are features"
        )


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a positive semi-definite matrix; eigenvalues that are zero but for rounding are raised."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    values = values.clamp_min(1e-12 * values[-1]).pow(exponent)
    powers: Tensor = (vectors * values) @ vectors.mT
    return powers


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{name}: shape {tuple(tensor.shape)} is not allowed; it must be {tuple(expected)}"
        )
