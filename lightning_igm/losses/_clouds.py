"""Samples with their distances, and the rules that drifting fields are made by.

See :mod:`.drifting` for the fields. The samples are constants, and the distances serve all
temperatures of a loss.
"""

import math
from copy import copy
from typing import Literal

import torch
from torch import Tensor

from lightning_igm.checks import above_zero, positive
from lightning_igm.distributed import all_mean, gather, rank
from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.kernels import Kernel

__all__ = [
    "Clouds",
    "RadialKernel",
    "kernel_gradient",
    "mean_distance",
    "mean_shift",
    "sharp",
    "sinkhorn",
    "two_sided",
]

RadialKernel = Literal["gaussian", "laplace"]

# Of differences kept at once; more pairs go by the expanded square.
_DIRECT_DIFFERENCES = 2**21


class Clouds:
    """This rank's fakes, and what moves them: the fakes and the reals of all ranks, as constants.

    A rule gives weights ``(N, C)`` of all C = N + M of them, fakes first, for each of this rank's
    fakes. Their rows sum to 0, and the field is the weighted sum.

    Args:
        fake: ``(N, D)``; ``(N,)`` counts as D = 1.
        real: ``(M, D)``.

    Attributes:
        points: All fakes and then all reals, about their mean, ``(C, D)``.
        distances: Of this rank's fakes from them, ``(N, C)``.
        fakes: Number of all fakes.
        first: Number of this rank's first among them.

    Raises:
        ValueError: They are no features, there are none, or their lengths differ.
    """

    def __init__(self, fake: Tensor, real: Tensor) -> None:
        own, real = as_features("fake", fake, least=1), as_features("real", real, least=1)
        if own.shape[1] != real.shape[1]:
            raise ValueError(
                f"real: features of length {real.shape[1]} are not allowed with fakes of length "
                f"{own.shape[1]}; the lengths must be equal"
            )
        precision = torch.promote_types(own.dtype, real.dtype)
        with torch.no_grad(), autocast_off(own):
            everything = gather(own.detach().to(precision))
            points = torch.cat([everything, gather(real.detach().to(precision))])
            # Fields do not depend on the origin; about the mean fewest digits are lost.
            self.points = points.sub_(points.mean(0))
            self.fakes, self.first = len(everything), rank() * len(own)
            self.distances = self._distances(len(own))

    def _distances(self, rows: int) -> Tensor:
        own = self.points[self.first : self.first + rows]
        if own.numel() * len(self.points) <= _DIRECT_DIFFERENCES:
            squares = (own[:, None] - self.points[None]).square().sum(-1)
        else:
            lengths = self.points.square().sum(1)
            sums = lengths[self.first : self.first + rows, None] + lengths
            squares = sums.addmm_(own, self.points.mT, alpha=-2).clamp_min_(0)
        squares.diagonal(self.first).zero_()
        return squares.sqrt_()

    def scaled(self, distances: Tensor) -> "Clouds":
        """The same with other distances."""
        made = copy(self)
        made.distances = distances
        return made

    def split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Columns ``(N, C)`` of fakes and of reals."""
        return columns[:, : self.fakes], columns[:, self.fakes :]

    def own(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's fakes and reals among points ``(C, D)``."""
        fakes, reals = points[: self.fakes], points[self.fakes :]
        ranks = self.fakes // len(self.distances)
        return fakes.chunk(ranks)[rank()], reals.chunk(ranks)[rank()]

    def centred(self, weights: Tensor) -> Tensor:
        """Weights whose rows sum to 0 by what a fake's own column takes."""
        weights.diagonal(self.first).sub_(weights.sum(1))
        return weights

    def without_self(self, logits: Tensor) -> Tensor:
        """Logits ``(N, C)`` of all pairs but those of a fake with itself.

        Raises:
            ValueError: There is one fake, and nothing left of it.
        """
        if self.fakes < 2:
            raise ValueError(
                "fake: a batch of 1 is not allowed with mask=True, which leaves out a fake's pair "
                "with itself; it must have 2 or more"
            )
        logits = logits.clone()
        logits.diagonal(self.first).fill_(-math.inf)
        return logits


def two_sided(clouds: Clouds, temperature: float, mask: bool = True) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.two_sided_field`."""
    logits = clouds.distances / -above_zero("temperature", temperature)
    if mask:
        logits = clouds.without_self(logits)
    rows, columns = logits.logsumexp(1, keepdim=True), _column_sums(logits)
    fake, real = clouds.split((logits - (rows + columns) / 2).exp())
    return torch.cat([-real.sum(1, keepdim=True) * fake, fake.sum(1, keepdim=True) * real], 1)


def sinkhorn(clouds: Clouds, epsilon: float, iterations: int = 20) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.sinkhorn_field`."""
    above_zero("epsilon", epsilon)
    positive("iterations", iterations)
    fake, real = clouds.split(clouds.distances.square() / -epsilon)
    return torch.cat([-_plan(fake, iterations), _plan(real, iterations)], 1)


def mean_shift(
    clouds: Clouds, bandwidth: float, mask: bool = False, kernel: RadialKernel = "gaussian"
) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.mean_shift_field`."""
    scaled = clouds.distances / above_zero("bandwidth", bandwidth)
    logits = -scaled if kernel == "laplace" else -scaled.square() / 2
    fake, real = clouds.split(clouds.without_self(logits) if mask else logits)
    return torch.cat([-fake.softmax(1), real.softmax(1)], 1)


def sharp(clouds: Clouds, temperature: float) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.sharp_field`."""
    logits = clouds.distances / -above_zero("temperature", temperature)

    def shift(part: Tensor) -> Tensor:
        # The largest is taken out of numerator and denominator: nothing underflows.
        weights = (part - part.amax(1, keepdim=True)).exp()
        return weights / ((weights * (1 - part)).sum(1, keepdim=True) * temperature**2)

    fake, real = clouds.split(logits)
    return clouds.centred(torch.cat([-shift(fake), shift(real)], 1))


def kernel_gradient(clouds: Clouds, kernel: Kernel) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.mmd_field`."""
    _, slopes, _ = kernel.profile(clouds.distances.square())
    fake, real = clouds.split(-2 * slopes)
    weight = kernel.linear_weight
    # The kernel's gradient in x is 2 g' (x - c) + weight c.
    weights = clouds.centred(torch.cat([-fake / fake.shape[1], real / real.shape[1]], 1))
    weights[:, : clouds.fakes] -= weight / fake.shape[1]
    weights[:, clouds.fakes :] += weight / real.shape[1]
    return weights


def mean_distance(clouds: Clouds) -> Tensor:
    """Mean ``()`` of the distances of all fakes to all fakes, themselves included, and reals."""
    return all_mean(clouds.distances.mean())


def _column_sums(logits: Tensor) -> Tensor:
    """Log of the sum of exponentials ``(1, C)`` over the rows of all ranks."""
    return gather(logits.logsumexp(0, keepdim=True)).logsumexp(0, keepdim=True)


def _plan(logits: Tensor, iterations: int) -> Tensor:
    """This rank's rows of a plan of transport, each of which sums to 1."""
    for _ in range(iterations):
        logits = logits - logits.logsumexp(1, keepdim=True)
        logits = logits - _column_sums(logits)
    return logits.softmax(1)
