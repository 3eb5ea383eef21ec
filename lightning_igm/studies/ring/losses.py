"""The kernel losses of the ring study for a stack of networks, with their gradients in closed form.

What :mod:`lightning_igm.losses.ratio` states, for one kernel of bandwidth 1 and members stacked in
the first dimension. With K the Gram matrix of points a and b, dK_ij / da_i = K_ij (b_j - a_i), so
every gradient is a product of K with a few columns; nothing is differentiated entry by entry.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Grams", "Ratio", "density_ratio", "grams", "mmd_root", "projector_loss"]

JITTER = 1e-3
_ESCALATIONS = 3
# Of kernel values: beside the jitter 4e-18 is 0, and processors take many times as long over values
# that underflow, or whose products do.
_LEAST_EXPONENT = -40.0
_CLIP = 1e9


class Grams(NamedTuple):
    """Features of generated points and of data, and their Gram matrices."""

    q: Tensor
    """Generated, centred, ``(B, N, K)``."""
    p: Tensor
    """Data, centred, ``(B, M, K)``."""
    qq: Tensor
    """``(B, N, N)``."""
    qp: Tensor
    """``(B, N, M)``."""
    pp: Tensor
    """``(B, M, M)``."""


def grams(q: Tensor, p: Tensor) -> Grams:
    """Gaussian Gram matrices of features ``(B, N, K)`` and ``(B, M, K)``."""
    # Centred, because the expanded square of points far from the origin loses digits.
    centre = torch.cat((q, p), 1).mean(1, keepdim=True)
    q, p = q - centre, p - centre
    (q_left, q_right), (p_left, p_right) = _factors(q), _factors(p)
    qq, pp = _gaussian(q_left, q_right), _gaussian(p_left, p_right)
    for within in (qq, pp):
        within.diagonal(dim1=1, dim2=2).fill_(1)
    return Grams(q, p, qq, _gaussian(q_left, p_right), pp)


def _factors(points: Tensor) -> tuple[Tensor, Tensor]:
    """Columns whose products are minus half the squared distances."""
    squares = points.square().sum(-1, keepdim=True).mul_(-0.5)
    ones = torch.ones_like(squares)
    return torch.cat((points, squares, ones), -1), torch.cat((points, ones, squares), -1)


def _gaussian(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right.mT).clamp_(_LEAST_EXPONENT, 0).exp_()


def _pull(gram: Tensor, a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over j of ``w_j K_ij (b_j - a_i)``: ``(B, N, K)``; weights ``(B, M)``, 1 by default."""
    if weights is None:
        columns = torch.cat((b, torch.ones_like(b[..., :1])), -1)
    else:
        columns = torch.cat((b, torch.ones_like(b[..., :1])), -1) * weights.unsqueeze(-1)
    sums = torch.bmm(gram, columns)
    pull: Tensor = sums[..., :-1] - sums[..., -1:] * a
    return pull


def mmd_root(g: Grams, delta: float) -> tuple[Tensor, Tensor]:
    """``sqrt(max(M, 0) + delta)`` of the biased MMD^2 M: ``(B,)``, and its gradient at q."""
    n, m = g.qp.shape[1:]
    within = g.qq.sum((1, 2)) / n**2 + g.pp.sum((1, 2)) / m**2
    squared = within - 2 * g.qp.sum((1, 2)) / (n * m)
    root = (squared.clamp_min(0) + delta).sqrt()
    gradient = _pull(g.qq, g.q, g.q) / n**2 - _pull(g.qp, g.q, g.p) / (n * m)
    return root, gradient * (squared > 0).div(root)[:, None, None]


def mmd_root_at_data(g: Grams, root: Tensor) -> Tensor:
    """Gradient of :func:`mmd_root` at p, where M is not 0."""
    n, m = g.qp.shape[1:]
    gradient = _pull(g.pp, g.p, g.p) / m**2 - _pull(g.qp.mT, g.p, g.q) / (n * m)
    return gradient / root[:, None, None]


class Ratio(NamedTuple):
    """A density ratio at the generated points, and what its gradient needs."""

    values: Tensor
    """``(B, N)``."""
    factor: Tensor
    """Cholesky factor of ``K_qq + jitter``, ``(B, N, N)``."""


def density_ratio(g: Grams) -> Ratio:
    """``r = (N / M) (K_qq + jitter)^-1 K_qp 1``; NaN for a member that has no Cholesky factor."""
    n, m = g.qp.shape[1:]
    factor = _cholesky(g.qq)
    values: Tensor = torch.cholesky_solve(g.qp.sum(2, keepdim=True) * (n / m), factor)
    return Ratio(values.squeeze(2), factor)


def _cholesky(gram: Tensor) -> Tensor:
    """Of every member's matrix on its own: one that fails gets ten times the jitter, thrice."""
    shifted = gram.clone()
    shifted.diagonal(dim1=1, dim2=2).add_(JITTER)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(shifted)
    for power in range(1, _ESCALATIONS + 1):
        bad = failed > 0
        if not bad.any():
            return factor
        again = gram[bad]
        again.diagonal(dim1=1, dim2=2).add_(JITTER * 10**power)
        factor[bad], failed[bad] = torch.linalg.cholesky_ex(again)
    factor[failed > 0] = torch.nan
    return factor


def projector_loss(g: Grams, ratio: Ratio, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The projector's loss ``(B,)``, and its gradients at q and at p.

    ``-mean (r - 1)^2 - mean r``; where ``clip``, ``(B, 1)``, is true ``-mean (r' - 1)^2`` with r'
    the ratio clamped at 0 from below.
    """
    n, m = g.qp.shape[1:]
    r = ratio.values
    clamped = r.clamp(0, _CLIP)
    used = torch.where(clip, clamped, r)
    weight = (~clip).to(r.dtype)
    loss = -(used - 1).square().mean(1) - (weight * used).mean(1)
    slope = (2 * (used - 1) + weight) * (used == r) / -n
    v = torch.cholesky_solve(slope.unsqueeze(2), ratio.factor).squeeze(2)
    along_data = _pull(g.qp, g.q, g.p) * (n / m) - _pull(g.qq, g.q, g.q, r)
    at_q = along_data * v.unsqueeze(2) - _pull(g.qq, g.q, g.q, v) * r.unsqueeze(2)
    at_p = _pull(g.qp.mT, g.p, g.q, v) * (n / m)
    return loss, at_q, at_p
