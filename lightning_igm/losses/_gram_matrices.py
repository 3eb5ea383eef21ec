"""Gram matrices of two samples' features, and bandwidths for them; see :mod:`.ratio`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_igm.checks import above_zero, one_of
from lightning_igm.distributed import gather, world_size
from lightning_igm.losses._support import as_numbers

__all__ = ["MEDIAN_FACTORS", "Bandwidths", "GramMatrices", "gram_matrices", "median_bandwidths"]

Bandwidths = float | Sequence[float] | Tensor | Literal["median", "median5"]

MEDIAN_FACTORS = {"median": (1.0,), "median5": (1.0, 0.333, 0.2, 1 / 0.2, 1 / 0.333)}
_LEAST_EXPONENT = -300.0


@dataclass(frozen=True)
class GramMatrices:
    """Gaussian kernel values of all pairs of two samples' features, from :func:`gram_matrices`.

    The matrices themselves are constants; :func:`ratio_of` and :func:`biased_mmd2` are
    differentiable in the features that they came from.

    Attributes:
        matrix: K, ``(..., L, N, N)`` for all N = N_q + N_p points, those of the denominator first;
            one for each of L bandwidths.
        features: ``(..., N, K)``, of all ranks.
        points: The features as constants about their mean, with a column of ones:
            ``(..., 1, N, K + 1)``.
        rates: ``-1 / sigma^2``, ``(..., L, 1, 1)``.
        n_q: N_q.
    """

    matrix: Tensor
    features: Tensor
    points: Tensor
    rates: Tensor
    n_q: int

    @property
    def n_p(self) -> int:
        """N_p."""
        return self.matrix.shape[-1] - self.n_q

    @property
    def sigmas(self) -> Tensor:
        """Standard deviations of the kernels, ``(..., L)``."""
        return (-self.rates[..., 0, 0]).rsqrt()

    @property
    def qq(self) -> Tensor:
        """K_qq, ``(..., L, N_q, N_q)``."""
        return self.matrix[..., : self.n_q, : self.n_q]

    @property
    def qp(self) -> Tensor:
        """K_qp, ``(..., L, N_q, N_p)``."""
        return self.matrix[..., : self.n_q, self.n_q :]

    @property
    def pp(self) -> Tensor:
        """K_pp, ``(..., L, N_p, N_p)``."""
        return self.matrix[..., self.n_q :, self.n_q :]


def gram_matrices(denominator: Tensor, numerator: Tensor, sigmas: Bandwidths) -> GramMatrices:
    """Gram matrices of ``k(a, b) = exp(-||a - b||^2 / (2 sigma^2))``.

    They are made in float64, of features in any precision: what is solved with them magnifies
    errors by the inverse of the jitter. Under several ranks they are those of the joined samples,
    the same on each.

    Args:
        denominator: Features ``(..., N_q, K)``; ``(N_q,)`` counts as K = 1.
        numerator: Features ``(..., N_p, K)``.
        sigmas: Standard deviations: a number, L numbers or a tensor ``(L,)`` or ``(..., L)``;
            ``median`` for that of :func:`median_bandwidths`, ``median5`` for it and its multiples
            by 0.333, 0.2 and their inverses.

    Raises:
        ValueError: The features do not fit, there are fewer than two of a kind, or a sigma is not
            positive.

    Example:
        >>> import torch
        >>> gram_matrices(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), [1.0]).qp[0]
        tensor([[0.6065, 0.6065],
                [1.0000, 1.0000]], dtype=torch.float64)
    """
    if isinstance(sigmas, str):
        factors = MEDIAN_FACTORS[one_of("sigmas", sigmas, tuple(MEDIAN_FACTORS))]
        sigmas = median_bandwidths(denominator, numerator, factors)
    q, p = _checked(denominator, numerator)
    features = torch.cat([q, p], -2)
    with torch.no_grad():
        left, right = _augmented(features.unsqueeze(-3))
        rates = _rates(sigmas, left)
        # Of rounding nothing is left above 1, nor off it on the diagonal. Values and products of
        # values that are no normal numbers would take a processor 60 times as long.
        matrix = ((left * (rates / 2)) @ right.mT).clamp_(_LEAST_EXPONENT, 0).exp_()
        matrix.diagonal(0, -2, -1).fill_(1)
    return GramMatrices(matrix, features, right[..., :-1], rates, q.shape[-2])


@torch.no_grad()
def median_bandwidths(
    denominator: Tensor, numerator: Tensor, factors: Sequence[float] = (1.0,)
) -> Tensor:
    """Multiples of the root of the median squared distance, the median heuristic.

    The distances are those of all pairs of q, of p, and of one of q with one of p, each point with
    itself included.

    Args:
        denominator: Features ``(..., N_q, K)``.
        numerator: Features ``(..., N_p, K)``.
        factors: L factors.

    Returns:
        ``(..., L)``, without gradient.

    Raises:
        ValueError: The features do not fit, or a factor is not positive.

    Example:
        >>> import torch
        >>> median_bandwidths(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]), [1.0, 5.0])
        tensor([1.4142, 7.0711])
    """
    for factor in factors:
        above_zero("factors", factor)
    q, p = _checked(denominator, numerator)
    left, right = _augmented(torch.cat([q, p], -2))
    distances, n_q = (left @ right.mT).clamp_min_(0), q.shape[-2]
    parts = distances[..., :n_q, :], distances[..., n_q:, n_q:]
    pooled = torch.cat([part.flatten(-2) for part in parts], -1)
    # The middle one, or the mean of the two in the middle.
    median = (pooled.median(-1).values - pooled.neg().median(-1).values) / 2
    # Above 0 even if most points are one.
    smallest = torch.finfo(torch.float32).eps
    root = median.sqrt().clamp_min(smallest)
    return torch.stack([root * factor for factor in factors], -1).to(q.dtype)


def _augmented(features: Tensor) -> tuple[Tensor, Tensor]:
    """Factors ``(..., N, K + 2)`` of squared distances: ``[-2 a, |a|^2, 1]`` and ``[b, 1, |b|^2]``.

    In float64 the squares cancel with digits to spare, at less cost than differences of all pairs.
    """
    if features.device.type != "mps":  # It has no float64.
        features = features.double()
    points = features - features.mean(-2, keepdim=True)
    squares = points.square().sum(-1, keepdim=True)
    ones = torch.ones_like(squares)
    return torch.cat([-2 * points, squares, ones], -1), torch.cat([points, ones, squares], -1)


def _checked(denominator: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(..., N, K)`` of all ranks, in float32 or better and in one precision."""
    given = {"denominator": denominator, "numerator": numerator}
    q, p = (
        _gathered(points.unsqueeze(-1) if points.dim() == 1 else points)
        for points in (as_numbers(name, points) for name, points in given.items())
    )
    for name, points in (("denominator", q), ("numerator", p)):
        if points.dim() not in (2, 3) or points.shape[-2] < 2 or 0 in points.shape:
            raise ValueError(
                f"{name}: shape {tuple(points.shape)} is not allowed; it must be (N, K), or "
                "(M, N, K) for M problems side by side, with 2 samples or more; flatten images"
            )
    if q.shape[-1] != p.shape[-1] or q.shape[:-2] != p.shape[:-2]:
        raise ValueError(
            f"numerator: shape {tuple(p.shape)} is not allowed with a denominator of shape "
            f"{tuple(q.shape)}; they must be equal but for the number of samples"
        )
    precision = torch.promote_types(q.dtype, p.dtype)
    return q.to(precision), p.to(precision)


def _gathered(points: Tensor) -> Tensor:
    if world_size() == 1:
        return points
    return gather(points.movedim(-2, 0)).movedim(0, -2)


def _rates(sigmas: float | Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """``-1 / sigma^2``, ``(..., L, 1, 1)``; sigmas on a GPU are taken as they are."""
    if isinstance(sigmas, Tensor):
        if sigmas.device.type == "cpu" and (sigmas <= 0).any():
            raise ValueError(f"sigmas: {sigmas.tolist()} is not allowed; it must be above 0")
        return -sigmas.to(like).square().reciprocal()[..., None, None]
    if isinstance(sigmas, int | float):
        sigmas = [sigmas]
    if len(sigmas) == 0:
        raise ValueError("sigmas: [] is not allowed; it must have one bandwidth or more")
    rates = [-1 / above_zero("sigmas", sigma) ** 2 for sigma in sigmas]
    # Numbers filled in on the device: to copy a list of them there would be to wait for it.
    return torch.stack([like.new_full((1, 1), rate) for rate in rates])
