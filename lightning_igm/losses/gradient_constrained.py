"""Gradient-constrained maximum mean discrepancy.

Everything is a matter of the functionals of the critic's features at the points z_m of mu: the
value of a function at phi(z_m), and its D partial derivatives there. Their inner products make a
matrix A of order M (1 + D). Values and derivatives in pixels are B times these, with a block
``(1, 0; 0, J(z_m)^T)`` for each point, and their inner products are B A B^T. Only ``G = B^T B`` is
ever needed of B, with blocks ``(1, 0; 0, J J^T)``, so that no system grows with the number of
pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_igm.checks import above_zero, non_negative
from lightning_igm.distributed import all_sum, gather, world_size
from lightning_igm.losses._support import autocast_off
from lightning_igm.losses.jacobians import Critic, features_and_jacobians, features_of
from lightning_igm.losses.kernels import Kernel
from lightning_igm.losses.mmd import mmd2

__all__ = ["Functionals", "gradient_constrained_mmd2", "inner_products"]


class Functionals:
    """Functionals of a function f of features: ``v f(p) + <e, grad f(p)>``.

    Args:
        points: p, ``(T, D)``.
        values: v, ``(T,)``.
        directions: e, ``(T, D)``.
    """

    def __init__(self, points: Tensor, values: Tensor, directions: Tensor) -> None:
        self.points, self.values, self.directions = points, values, directions

    @classmethod
    def at(cls, points: Tensor) -> "Functionals":
        """Value and D partial derivatives at each of M points, ``M (1 + D)`` in all."""
        m, d = points.shape
        unit = _identity(1 + d, points).repeat(m, 1)
        return cls(points.repeat_interleave(1 + d, dim=0), unit[:, 0], unit[:, 1:])

    @classmethod
    def derivatives_at(cls, points: Tensor) -> "Functionals":
        """The D partial derivatives at each of M points, ``M D`` in all."""
        m, d = points.shape
        repeated = points.repeat_interleave(d, dim=0)
        return cls(repeated, torch.zeros_like(repeated[:, 0]), _identity(d, points).repeat(m, 1))

    @classmethod
    def values_at(cls, points: Tensor) -> "Functionals":
        """Values at points."""
        return cls(points, torch.ones_like(points[:, 0]), torch.zeros_like(points))

    def __getitem__(self, index: Tensor) -> "Functionals":
        return Functionals(self.points[index], self.values[index], self.directions[index])

    def of(self, values_and_derivatives: Tensor) -> Tensor:
        """Functionals ``(..., T)`` of functions with ``(..., T, 1 + D)`` at their points."""
        slopes = (self.directions * values_and_derivatives[..., 1:]).sum(-1)
        return self.values * values_and_derivatives[..., 0] + slopes


def inner_products(kernel: Kernel, functionals: Functionals, points: Tensor) -> Tensor:
    """Inner products of functionals with the value and the derivatives at points.

    With ``K(a, b) = g(t) + w <a, b>``, ``t = ||a - b||^2`` and ``D = a - b``, the derivatives are
    ``2 g' D + w b`` in a, ``-2 g' D + w a`` in b, and ``-(2 g' - w) I - 4 g'' D D^T`` in both.

    Args:
        kernel: K.
        functionals: T of them.
        points: ``(M, D)``.

    Returns:
        ``(T, M, 1 + D)``, the value first.

    Raises:
        ValueError: The kernel is not of this form.
    """
    own, value, along = functionals.points, functionals.values[:, None], functionals.directions
    difference = own[:, None] - points[None]
    g, slope, curvature = kernel.profile(difference.square().sum(-1))
    weight = kernel.linear_weight
    drift = (along[:, None] * difference).sum(-1)
    at_points = value * g + 2 * slope * drift + weight * (value * own + along) @ points.mT
    factor = -2 * value * slope - 4 * curvature * drift
    derivatives = factor[..., None] * difference - 2 * slope[..., None] * along[:, None]
    derivatives = derivatives + weight * (value * own + along)[:, None]
    return torch.cat([at_points[..., None], derivatives], dim=-1)


def gradient_constrained_mmd2(
    kernel: Kernel,
    critic: Critic,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    lam: float,
    *,
    weights: Tensor | None = None,
    rank: int | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Square of the gradient-constrained MMD, of Eq. 5, by its closed form (Proposition 3).

    "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018,
    https://arxiv.org/abs/1805.11565)::

        sup { mean f(x) - mean f(y) : ||f||^2_mu + ||grad f||^2_mu + lambda ||f||^2 <= 1 }

    over functions f of the space of ``k(x, y) = K(phi(x), phi(y))``, where ``||.||^2_mu`` is the
    mean over points z and ``||f||`` the norm of the space. With the values and derivatives u of
    ``mean k(x, .) - mean k(y, .)`` at the points, and the matrix ``(K, G^T; G, H)`` of inner
    products of these functionals, its square is::

        (MMD^2 - u^T ((K, G^T; G, H) + M lambda I)^-1 u) / lambda

    with the biased MMD^2. The points z are constants. Systems are solved in float64, at an order
    that does not depend on the number of pixels.

    Args:
        kernel: K; not a distance.
        critic: phi, maps images ``(N, ...)`` to features ``(N, D)``, each image by itself.
        x: Real images, ``(N, ...)``.
        y: Fakes, ``(N', ...)``.
        z: The support of mu, ``(M, ...)``; with ``x`` itself the critic makes one pass for both.
        lam: lambda.
        weights: Weights ``(M,)`` of the points; 1/M each by default, M that of all ranks.
        rank: Largest rank of an incomplete Cholesky factorization, for large batches: that of the
            features' functionals, M (1 + D) in all. None for the exact solve.
        tolerance: The factorization ends where no functional has more left than this part of what
            the first had.

    Returns:
        ``()``, over all ranks' images.

    Raises:
        ValueError: An argument is out of range, the kernel has no second derivative, the features
            do not fit, or, on a CPU, the system is singular to working precision (elsewhere the
            value is NaN then, so that no step waits for the device).

    Example:
        >>> import torch
        >>> from lightning_igm.losses.kernels import Gaussian
        >>> x, y, z = (torch.tensor(v)[:, None] for v in ([0.0, 1.0], [2.0, 3.5], [0.0, 1.0, 2.0]))
        >>> value = gradient_constrained_mmd2(Gaussian(1.0), lambda image: image, x, y, z, lam=0.5)
        >>> round(value.item(), 4)
        1.1177
    """
    above_zero("lam", lam)
    if rank is not None and rank < 1:
        raise ValueError(f"rank: {rank} is not allowed; it must be 1 or more, or None")
    non_negative("tolerance", tolerance)
    if len(z) == 0:
        raise ValueError("z: no points are not allowed; it must have 1 or more")
    points, jacobians = features_and_jacobians(critic, z.detach())
    real = points if x is z and not x.requires_grad else features_of(critic, x)
    fake = features_of(critic, y)
    with autocast_off(points):
        real, fake, at, slopes = map(_precise, (real, fake, points, jacobians))
        support = _Support(kernel, at, slopes, weights)
        witness = support.mean_of(real) - support.mean_of(fake)
        if rank is None:
            fitted = _exact_fit(support, witness, lam)
        else:
            fitted = _low_rank_fit(support, witness, lam, rank, tolerance)
        value = (mmd2(kernel, real, fake, estimator="biased") - fitted) / lam
        return value.to(points.dtype)


class _Support:
    """This rank's points of mu, and its blocks of G = B^T B with the points' weights."""

    def __init__(
        self, kernel: Kernel, points: Tensor, jacobians: Tensor, weights: Tensor | None
    ) -> None:
        m, d = points.shape
        if weights is None:
            weights = points.new_full((m,), 1 / (m * world_size()))
        elif weights.shape != (m,):
            raise ValueError(
                f"weights: shape {tuple(weights.shape)} is not allowed; it must be ({m},), a "
                "weight for each point"
            )
        self.kernel, self.points = kernel, points
        blocks = F.pad(jacobians @ jacobians.mT, (1, 0, 1, 0))
        blocks = blocks + F.pad(blocks.new_ones(1, 1), (0, d, 0, d))
        self.blocks = weights.to(blocks)[:, None, None] * blocks

    def mean_of(self, sample: Tensor) -> Tensor:
        """Values and derivatives ``(M, 1 + D)`` at the points of the sample's mean of K(a, .)."""
        values = Functionals.values_at(gather(sample))
        return inner_products(self.kernel, values, self.points).mean(0)


def _exact_fit(support: _Support, witness: Tensor, lam: float) -> Tensor:
    """``u^T (B A B^T + lambda)^-1 u`` for ``u = B v``, as ``v^T G (A G + lambda)^-1 v``."""
    points, blocks, witness = map(gather, (support.points, support.blocks, witness))
    rows = inner_products(support.kernel, Functionals.at(support.points), points)
    system = gather(_times(rows, blocks).flatten(1))
    system = system + lam * _identity(len(system), system)
    solution, _ = torch.linalg.solve_ex(system, witness.flatten())
    fitted = (_times(solution.view_as(witness), blocks) * witness).sum()
    # A separate factorization: to differentiate one costs several, a solution next to nothing.
    pivots = torch.linalg.lu_factor_ex(system.detach())[0].diagonal()
    lost = pivots.abs() <= _rounding(system) * system.detach().abs().amax(0)
    return _sound(fitted, lost.any(), lam)


def _low_rank_fit(
    support: _Support, witness: Tensor, lam: float, rank: int, tolerance: float
) -> Tensor:
    """The same for A = R^T R of low rank, as ``(v^T G v - r^T (R G R^T + lambda)^-1 r) / lambda``.

    Here r = R G v. Which functionals R is made of is piecewise constant: its gradient is that of
    the factorization with these.
    """
    picks, useful = _picked(support, rank, tolerance)
    picked = Functionals.at(gather(support.points))[picks]
    rows = inner_products(support.kernel, picked, support.points) * useful[:, None, None]
    among = picked.of(inner_products(support.kernel, picked, picked.points))
    among = among.where(useful & useful[:, None], _identity(len(useful), among))
    root, _ = torch.linalg.cholesky_ex(among)
    factor = torch.linalg.solve_triangular(root, rows.flatten(1), upper=False).view_as(rows)
    weighted = _times(factor, support.blocks)
    system = all_sum(weighted.flatten(1) @ factor.flatten(1).mT)
    system = system + lam * _identity(len(system), system)
    projected = all_sum((weighted * witness).sum((1, 2)))
    length = all_sum((_times(witness, support.blocks) * witness).sum())
    lower, failed = torch.linalg.cholesky_ex(system)
    solution = torch.cholesky_solve(projected[:, None], lower).squeeze(1)
    # The difference loses what lambda is smaller than the system by.
    lost = system.diagonal().max() * _rounding(system) >= lam
    failed = (failed > 0) & system.isfinite().all()
    return _sound((length - projected.dot(solution)) / lam, lost | failed, lam)


@torch.no_grad()
def _picked(support: _Support, rank: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Indices of functionals by incomplete Cholesky factorization, and whether each is of use.

    The next is that of which most is left, in the weights of G. Where the factorization should have
    ended, what is picked is of no use; no step waits for the device to know.
    """
    kernel, points = support.kernel, gather(support.points)
    functionals = Functionals.at(points)
    weights = gather(support.blocks).diagonal(dim1=1, dim2=2).flatten()
    slopes = functionals.directions.sum(1) * kernel.scaling_constant
    left = functionals.values * kernel.diagonal(functionals.points) + slopes
    lost = _rounding(left) * left
    enough = tolerance * (left * weights).max()
    factor = left.new_zeros(min(rank, len(left)), len(left))
    picks, useful = [], []
    for step in range(len(factor)):
        pick = (left * weights).argmax(0, keepdim=True)
        useful.append(((left * weights > enough) & (left > lost))[pick])
        row = inner_products(kernel, functionals[pick], points).flatten(1)
        row = (row - factor[:step, pick].mT @ factor[:step]) * left[pick].rsqrt()
        factor[step] = row.where(useful[-1], 0)
        left = (left - factor[step].square()).clamp_min(0).index_fill(0, pick, 0)
        picks.append(pick)
    return torch.cat(picks), torch.cat(useful)


def _times(rows: Tensor, blocks: Tensor) -> Tensor:
    """Rows ``(..., M, 1 + D)`` times the block-diagonal matrix of blocks ``(M, 1 + D, 1 + D)``."""
    return torch.einsum("...mo,mop->...mp", rows, blocks)


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _precise(tensor: Tensor) -> Tensor:
    """In float64 where the device has it."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _rounding(system: Tensor) -> float:
    """Rounding error of a system of this order, relative to its entries."""
    return len(system) * float(torch.finfo(system.dtype).eps)


def _sound(value: Tensor, singular: Tensor, lam: float) -> Tensor:
    """The value, unless it is that of a singular system."""
    if value.device.type == "cpu" and singular:
        raise ValueError(
            f"lam: {lam} is not allowed with these points; the system of the gradient-constrained "
            "MMD is singular to working precision, and a larger lam makes it regular"
        )
    return value.where(~singular, torch.nan)
