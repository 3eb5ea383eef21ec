"""The energy distance along directions, by sorting."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_igm.checks import positive
from lightning_igm.distributed import gather, world_size
from lightning_igm.losses._support import as_features, autocast_off

__all__ = ["energy_scale", "random_directions", "sliced_energy_distance"]


def sliced_energy_distance(fake: Tensor, real: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions of the energy distance of the projected samples.

    "Generative Sliced MMD Flows with Riesz Kernels" (Hertrich, Wald, Altekrüger and Hagemann, 2024,
    https://arxiv.org/abs/2305.11463), for the kernel ``-||x - y||``. With u = <t, x>, w = <t, y>::

        E(u, w) = 2 mean |u_i - w_j| - mean |u_i - u_j| - mean |w_i - w_j|

    over all pairs, which is an integral of the squared difference of two distribution functions.
    Sorting makes it O((N + M) log(N + M)) for a direction, without any matrix of pairs. Over
    directions that are uniform on the sphere it is the energy distance of the samples themselves
    but for the factor :func:`energy_scale`. Equal values count as midway between before and after:
    the gradient is zero where the samples are equal. It can be taken once.

    Args:
        fake: x, features ``(N, D)``; ``(N,)`` counts as D = 1.
        real: y, features ``(M, D)``, constants.
        directions: t, ``(P, D)``, as they are; the same on every rank.

    Returns:
        ``()``, of all ranks' samples.

    Raises:
        ValueError: The features or directions do not fit, or there are none.

    Example:
        >>> import torch
        >>> sliced_energy_distance(torch.tensor([0.0]), torch.tensor([2.0]), torch.ones(1, 1))
        tensor(4.)
    """
    fake, real = as_features("fake", fake, least=1), as_features("real", real, least=1)
    directions = as_features("directions", directions, least=1)
    for name, other in (("real", real), ("directions", directions)):
        if other.shape[1] != fake.shape[1]:
            raise ValueError(
                f"{name}: features of length {other.shape[1]} are not allowed with fakes of length "
                f"{fake.shape[1]}; the lengths must be equal"
            )
    with autocast_off(fake):
        directions = directions.detach().to(fake.dtype)
        # Rows of one direction lie together: they are sorted.
        own = directions @ fake.mT
        with torch.no_grad():
            everything = gather(fake @ directions.mT).mT.contiguous()
            reals = gather(real.to(fake.dtype) @ directions.mT).mT.contiguous()
        distance: Tensor = _EnergyDistance.apply(own, everything, reals)
        return distance


def energy_scale(dim: int) -> float:
    """Ratio of the energy distance to its sliced mean, ``sqrt(pi) G((D + 1) / 2) / G(D / 2)``.

    Args:
        dim: D.

    Raises:
        ValueError: It is not positive.

    Example:
        >>> round(energy_scale(3), 12)
        2.0
    """
    half = positive("dim", dim) / 2
    return math.sqrt(math.pi) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half))


def random_directions(count: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Unit vectors ``(P, D)``, uniform on the sphere.

    Args:
        count: P.
        like: Features ``(N, D)``.
        generator: Source of the directions, in the same state on every rank; the global one of the
            features' device by default.

    Raises:
        ValueError: There are none.
    """
    shape = positive("count", count), like.shape[1]
    device = like.device if generator is None else generator.device
    drawn = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
    return torch.nn.functional.normalize(drawn, dim=1).to(like.device)


class _EnergyDistance(torch.autograd.Function):
    """Mean over P directions, from this rank's fakes ``(P, n)``, all ``(P, N)``, reals ``(P, M)``.

    The gradient in a fake's u is ``2 / (N M) (2 #{w < u} - M) - 2 / N^2 (2 rank(u) - N + 1)``,
    where ties count by half.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, everything: Tensor, reals: Tensor) -> Tensor:
        (count, n), m = everything.shape, reals.shape[1]
        merged, order = torch.cat([everything, reals], 1).sort(1)
        # Whole numbers lose no digits: N M times the difference of the distribution functions.
        steps = torch.where(order < n, m, -n).cumsum(1)[:, :-1]
        gaps = merged.diff(dim=1)
        if ctx.needs_input_grad[0]:
            among_reals = _twice_ranks(reals, own) - m
            among_fakes = _twice_ranks(everything, own) - n
            slopes = among_reals.to(own.dtype) / m - among_fakes.to(own.dtype) / n
            # A rank's gradients are averaged with the others' later.
            ctx.save_for_backward(slopes * (2 * world_size() / (n * count)))
        return 2 * ((steps.to(own.dtype) / (n * m)).square() * gaps).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradients[0] * slopes, None, None


def _twice_ranks(points: Tensor, values: Tensor) -> Tensor:
    """Twice the number of points ``(P, N)`` below each value ``(P, n)``, equal ones by half."""
    points = points.sort(1).values
    below = torch.searchsorted(points, values)
    return below + torch.searchsorted(points, values, right=True)
