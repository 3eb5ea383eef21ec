"""Lipschitz maximum mean discrepancy, for low dimensions."""

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from lightning_igm.checks import above_zero
from lightning_igm.distributed import gather
from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.gradient_constrained import Functionals, inner_products
from lightning_igm.losses.kernels import Kernel
from lightning_igm.losses.mmd import mmd2

__all__ = ["lipschitz_mmd"]

_BARRIERS = 14
_NEWTON_STEPS = 30


def lipschitz_mmd(kernel: Kernel, x: Tensor, y: Tensor, z: Tensor, lam: float) -> Tensor:
    """MMD over functions with a bounded gradient at given points.

    Section 3.1 of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and
    Gretton, 2018, https://arxiv.org/abs/1805.11565)::

        sup { mean f(x) - mean f(y) : ||grad f(z_m)||^2 + lambda ||f||^2 <= 1 for every m }

    over the functions f of K's space. It is at most MMD / sqrt(lambda) and, where the points z
    cover the region, at most the Wasserstein distance. A constraint by itself has the closed form
    of a gradient-constrained MMD, as has any mixture u of them; the supremum is the smallest over
    mixtures::

        min over u of (MMD^2 - s^T S (lambda I + S H S)^-1 S s) / lambda,    S = diag(sqrt(u_m))

    with the slopes s of ``mean K(x, .) - mean K(y, .)`` at the points and the matrix H of inner
    products of derivatives there, which gives the square. The mixture comes from the conic solver
    Clarabel (``pip install lightning-igm[lipschitz]``), or else from a slower iteration. The value
    is differentiable: at the best mixture its gradient is that of the closed form.

    Args:
        kernel: K; not a distance.
        x: ``(N, d)``; ``(N,)`` counts as d = 1.
        y: ``(N', d)``.
        z: ``(M, d)``.
        lam: lambda.

    Returns:
        ``()``, not squared; over all ranks' points, each of which solves the whole programme.

    Raises:
        ValueError: Lambda is not positive, the points do not fit, or the kernel has no second
            derivative.

    Example:
        >>> import torch
        >>> from lightning_igm.losses.kernels import Gaussian
        >>> x, y, z = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.5]), torch.arange(3.0)
        >>> lipschitz_mmd(Gaussian(1.0), x, y, z, lam=0.5)
        tensor(1.1136)
    """
    above_zero("lam", lam)
    dtype = as_features("x", x).dtype
    named = {"x": x, "y": y, "z": z}
    x, y, z = (as_features(name, points).double() for name, points in named.items())
    if len(z) == 0:
        raise ValueError("z: no points are not allowed; it must have 1 or more")
    if z.shape[1] != x.shape[1]:
        raise ValueError(
            f"z: points of length {z.shape[1]} are not allowed with points x of length "
            f"{x.shape[1]}; the lengths must be equal"
        )
    with autocast_off(x):
        mmd = mmd2(kernel, x, y, estimator="biased")
        x, y, z = map(gather, (x, y, z))
        rows = inner_products(kernel, Functionals.values_at(torch.cat([x, y])), z)[..., 1:]
        slopes = (rows[: len(x)].mean(0) - rows[len(x) :].mean(0)).flatten()
        products = inner_products(kernel, Functionals.derivatives_at(z), z)[..., 1:].flatten(1)
        mixture = _best_mixture(mmd.detach(), slopes.detach(), products.detach(), len(z), lam)
        square = (mmd - slopes.dot(_solution(slopes, products, mixture, lam))) / lam
        # Rounding may make it negative; the root's gradient at 0 is taken as 0.
        nothing = square <= 0
        return square.masked_fill(nothing, 1).sqrt().masked_fill(nothing, 0).to(dtype)


def _solution(slopes: Tensor, products: Tensor, mixture: Tensor, lam: float) -> Tensor:
    """``S (lambda I + S H S)^-1 S s``."""
    root = mixture.sqrt().repeat_interleave(len(slopes) // len(mixture))
    system = root[:, None] * products * root + lam * _identity(root)
    solution: Tensor = torch.linalg.solve(system, root * slopes)
    return root * solution


def _best_mixture(mmd: Tensor, slopes: Tensor, products: Tensor, m: int, lam: float) -> Tensor:
    """Weights ``(m,)`` of the constraints at which the closed form is smallest."""
    if not slopes.any():
        return slopes.new_full((m,), 1 / m)
    if find_spec("clarabel"):
        return _by_cones(mmd, slopes, products, m, lam)
    return _by_newton(slopes, products, m, lam)


def _by_cones(mmd: Tensor, slopes: Tensor, products: Tensor, m: int, lam: float) -> Tensor:
    """The multipliers of the programme as it is stated, over the span of what f is made of.

    With an orthonormal basis, f has coefficients w and ``grad f(z_m) = R_m w``; the cones are
    ``|R_m w| <= b`` for every m, and ``|(sqrt(lambda) w, b)| <= 1``.
    """
    import clarabel
    from scipy.sparse import csc_matrix

    witness = torch.cat([mmd.view(1), slopes])[:, None]
    gram = torch.cat([witness, torch.cat([slopes[None], products])], dim=1)
    values, vectors = torch.linalg.eigh(gram)
    basis = (vectors * values.clamp_min(0).sqrt())[:, values > 1e-13 * values[-1]].cpu().numpy()
    n, d = basis.shape[1], len(slopes) // m
    bound = np.zeros((m, 1 + d, n + 1))
    bound[:, 0, n] = -1
    bound[:, 1:, :n] = -basis[1:].reshape(m, d, n)
    norm = -np.diag(np.append(np.full(n, lam**0.5), 1.0))
    rows = np.concatenate([bound.reshape(-1, n + 1), np.zeros((1, n + 1)), norm])
    limits = np.zeros(len(rows))
    limits[m * (1 + d)] = 1
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.SecondOrderConeT(1 + d)] * m + [clarabel.SecondOrderConeT(2 + n)]
    objective = np.append(-basis[0], 0.0)
    nothing = csc_matrix((n + 1, n + 1))
    solver = clarabel.DefaultSolver(nothing, objective, csc_matrix(rows), limits, cones, settings)
    multipliers = np.array(solver.solve().z)[: m * (1 + d) : 1 + d].clip(min=0)
    return torch.from_numpy(multipliers / multipliers.sum()).to(slopes)


def _by_newton(slopes: Tensor, products: Tensor, m: int, lam: float) -> Tensor:
    """Newton's method on the closed form with a falling logarithmic barrier."""
    mixture, d = slopes.new_full((m,), 1 / m), len(slopes) // m
    barrier = slopes.dot(_solution(slopes, products, mixture, lam)) / lam
    for _ in range(_BARRIERS):
        barrier = barrier / 10
        for _ in range(_NEWTON_STEPS):
            root = mixture.sqrt().repeat_interleave(d)
            inverse = torch.linalg.inv(lam * _identity(root) + root[:, None] * products * root)
            witness_slopes = inverse @ (root * slopes) / root
            gradient = -witness_slopes.view(m, d).square().sum(1) - barrier / mixture
            ratio = witness_slopes / root
            curvature = ratio.square().diag() - lam * ratio[:, None] * inverse * ratio
            curvature = 2 * curvature.view(m, d, m, d).sum((1, 3)) + (barrier / mixture**2).diag()
            sides = torch.stack([gradient, torch.ones_like(gradient)], dim=1)
            descent, level = torch.linalg.solve(curvature, sides).unbind(1)
            step = level * (descent.sum() / level.sum()) - descent
            mixture = mixture + step / (-step / mixture / 0.9).max().clamp_min(1)
            mixture = mixture / mixture.sum()
            if -gradient.dot(step) <= 0.01 * barrier:
                break
    return mixture


def _identity(vector: Tensor) -> Tensor:
    return torch.eye(len(vector), dtype=vector.dtype, device=vector.device)
