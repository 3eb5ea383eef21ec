"""Discrepancies between normal distributions and point masses under a Gaussian kernel, exactly.

The kernel is ``exp(-||x - y||^2 / (2 h^2))``; all shapes may have leading dimensions (...) of
independent problems. Functionals of a function of d variables are its value and its d derivatives
at a point, in this order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["GradientConstraint", "Normal", "inner_products", "mmd2", "peak", "witness"]


class Normal(NamedTuple):
    """Isotropic normal distribution, or a point mass.

    Attributes:
        mean: ``(..., d)``.
        variance: ``(...)``; 0 for a point mass.
    """

    mean: Tensor
    variance: Tensor


def mmd2(p: Normal, q: Normal, bandwidth: Tensor) -> Tensor:
    """Squared MMD ``(...)`` with a Gaussian kernel of bandwidths ``(...)``."""
    pairs = ((p, p), (q, q), (p, q))
    within_p, within_q, across = (
        _expected_kernel(a.mean - b.mean, a.variance + b.variance, bandwidth) for a, b in pairs
    )
    return within_p + within_q - 2 * across


def witness(p: Normal, q: Normal, bandwidth: Tensor, points: Tensor) -> Tensor:
    """Functionals ``(..., M, 1 + d)`` of ``E_p k(x, .) - E_q k(y, .)`` at ``(..., M, d)``."""
    return _embedding(p, bandwidth, points) - _embedding(q, bandwidth, points)


class GradientConstraint:
    """The ball of eq. 5 of "On gradient regularizers for MMD GANs" (Arbel et al., 2018).

    Functions f with ``||f||^2_mu + ||grad f||^2_mu + lambda ||f||^2_H <= 1``, where mu has weights
    w at points z. Proposition 3 for weighted points: with the functionals u of the witness at the
    points and the matrix A of the functionals' inner products, the largest ``E_p f - E_q f`` is the
    root of ``(MMD^2 - u^T (A + lambda W^-1)^-1 u) / lambda``.

    Args:
        points: ``(..., M, d)``.
        weights: ``(..., M)``.
        bandwidth: ``(...)``.
        lam: lambda.
    """

    def __init__(self, points: Tensor, weights: Tensor, bandwidth: Tensor, lam: float) -> None:
        self.points, self.bandwidth, self.lam = points, bandwidth, lam
        # W^(1/2) (W^(1/2) A W^(1/2) + lambda)^-1 W^(1/2) bears weights of any size.
        self._roots = weights.sqrt().repeat_interleave(1 + points.shape[-1], dim=-1)[..., None]
        gram = self._roots * inner_products(points, points, bandwidth) * self._roots.mT
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype)
        self._factor = torch.linalg.cholesky(gram + lam * identity)

    def coefficients(self, functionals: Tensor) -> Tensor:
        """``(A + lambda W^-1)^-1 u`` of columns u, ``(..., M (1 + d), K)``."""
        return self._roots * torch.cholesky_solve(self._roots * functionals, self._factor)

    def gcmmd2(self, mmd2: Tensor, functionals: Tensor) -> Tensor:
        """Squared gradient-constrained MMDs ``(..., K)`` of witnesses.

        Args:
            mmd2: Their squared MMDs, ``(..., K)``.
            functionals: Their functionals at the points, ``(..., M (1 + d), K)``.
        """
        fitted = (functionals * self.coefficients(functionals)).sum(-2)
        return (mmd2 - fitted) / self.lam

    def critic(self, p: Normal, q: Normal, points: Tensor) -> Tensor:
        """Functionals ``(..., T, 1 + d)`` at points ``(..., T, d)`` of the best f of the ball."""
        seen = witness(p, q, self.bandwidth, self.points).flatten(-2)[..., None]
        gcmmd2 = self.gcmmd2(mmd2(p, q, self.bandwidth)[..., None], seen)
        across = inner_products(points, self.points, self.bandwidth)
        fitted = (across @ self.coefficients(seen)).unflatten(-2, (-1, 1 + points.shape[-1]))
        best = witness(p, q, self.bandwidth, points) - fitted[..., 0]
        value: Tensor = best / (self.lam * gcmmd2[..., None].sqrt())
        return value


def inner_products(a: Tensor, b: Tensor, bandwidth: Tensor) -> Tensor:
    """Inner products of functionals at points ``(..., T, d)`` with those at ``(..., M, d)``.

    Returns:
        ``(..., T (1 + d), M (1 + d))``.
    """
    h = bandwidth[..., None, None, None]
    offsets = (a[..., :, None, :] - b[..., None, :, :]) / h
    values = (-offsets.square().sum(-1) / 2).exp()
    one = torch.ones_like(offsets[..., :1])
    left, right = torch.cat([one, -offsets], -1), torch.cat([one, offsets], -1)
    derivative = a.new_tensor([0.0] + [1.0] * a.shape[-1])
    blocks = left[..., :, None] * right[..., None, :] + derivative.diag()
    per_unit = torch.cat([one, one.expand_as(offsets) / h], -1)
    blocks = blocks * per_unit[..., :, None] * per_unit[..., None, :] * values[..., None, None]
    return blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def peak(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value of each of ``(...)`` curves, and where it is, by a parabola in log position.

    A peak at an end is taken as it is.

    Args:
        values: ``(..., K)``.
        positions: In geometric progression, ``(..., K)``.
    """
    at = values.argmax(-1, keepdim=True)
    inside = at.clamp(1, values.shape[-1] - 2)
    left, middle, right = (values.gather(-1, inside + i) for i in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * middle + right))
    shift = shift.where((at == inside) & shift.isfinite(), 0)
    step = (positions[..., 1:2] / positions[..., :1]).log()
    value = values.gather(-1, at) - shift * (left - right) / 4
    position = positions.expand_as(values).gather(-1, at) * (shift * step).exp()
    return value.squeeze(-1), position.squeeze(-1)


def _expected_kernel(offset: Tensor, variance: Tensor, bandwidth: Tensor) -> Tensor:
    """Mean ``(...)`` of the kernel of a normal vector of mean ``(..., d)``, variance ``(...)``."""
    width = bandwidth.square() + variance
    share = (bandwidth.square() / width) ** (offset.shape[-1] / 2)
    return share * (-offset.square().sum(-1) / (2 * width)).exp()


def _embedding(p: Normal, bandwidth: Tensor, points: Tensor) -> Tensor:
    offsets = points - p.mean[..., None, :]
    width = (bandwidth.square() + p.variance)[..., None]
    values = _expected_kernel(offsets, p.variance[..., None], bandwidth[..., None])
    return torch.cat([values[..., None], -offsets * (values / width)[..., None]], -1)
