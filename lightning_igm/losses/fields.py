"""Fields that move generated samples towards real ones; see :mod:`.drifting`.

A field is a displacement of every fake, made of the fakes and the reals without gradient. The rules
below see samples as :class:`Clouds`, which share their distances among the temperatures of a loss;
the classes at the end are what the command line and a module call a field.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_igm.checks import above_zero, one_of, positive
from lightning_igm.distributed import all_mean, gather, rank
from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.kernels import Gaussian, Kernel, Pairs

__all__ = [
    "Clouds",
    "Field",
    "MMDField",
    "MeanShiftField",
    "RadialKernel",
    "SharpField",
    "SinkhornField",
    "TwoSidedField",
    "kernel_gradient",
    "mean_shift",
    "sharp",
    "sinkhorn",
    "two_sided",
]

RadialKernel = Literal["gaussian", "laplace"]


class Clouds:
    """This rank's fakes, and what moves them: the fakes and the reals of all ranks, as constants.

    Args:
        fake: ``(N, D)``; ``(N,)`` counts as D = 1.
        real: ``(M, D)``.

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
            everything, reals = gather(own.to(precision)), gather(real.to(precision))
            # Fields do not depend on the origin; about the mean fewest digits are lost.
            centre = torch.cat([everything, reals]).mean(0)
            self.negatives, self.positives = everything - centre, reals - centre
            self.first = rank() * len(own)
            self.own = self.negatives[self.first : self.first + len(own)]
            self.own_positives = self.positives[rank() * len(real) : (rank() + 1) * len(real)]
            pairs = Pairs(self.own, torch.cat([self.negatives, self.positives]))
            self.distances = pairs.squared_distances.sqrt()
            self.distances.diagonal(self.first).zero_()

    def scaled(self, scale: Tensor) -> "Clouds":
        """The same divided by a number ``()``."""
        made = object.__new__(Clouds)
        made.first, made.distances = self.first, self.distances / scale
        made.negatives, made.positives = self.negatives / scale, self.positives / scale
        made.own, made.own_positives = self.own / scale, self.own_positives / scale
        return made

    def split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Columns ``(N, C)`` of fakes and of reals."""
        fakes = len(self.negatives)
        return columns[:, :fakes], columns[:, fakes:]

    def without_self(self, logits: Tensor) -> Tensor:
        """Logits ``(N, C)`` of all pairs but those of a fake with itself.

        Raises:
            ValueError: There is one fake, and nothing left of it.
        """
        if len(self.negatives) < 2:
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
    towards = fake.sum(1, keepdim=True) * (real @ clouds.positives)
    return towards - real.sum(1, keepdim=True) * (fake @ clouds.negatives)


def sinkhorn(clouds: Clouds, epsilon: float, iterations: int = 20) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.sinkhorn_field`."""
    above_zero("epsilon", epsilon)
    positive("iterations", iterations)
    fake, real = (
        _plan(part, iterations) for part in clouds.split(clouds.distances.square() / -epsilon)
    )
    return real @ clouds.positives - fake @ clouds.negatives


def mean_shift(
    clouds: Clouds, bandwidth: float, mask: bool = False, kernel: RadialKernel = "gaussian"
) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.mean_shift_field`."""
    above_zero("bandwidth", bandwidth)
    scaled = clouds.distances / bandwidth
    logits = -scaled if kernel == "laplace" else -scaled.square() / 2
    fake, real = clouds.split(clouds.without_self(logits) if mask else logits)
    return real.softmax(1) @ clouds.positives - fake.softmax(1) @ clouds.negatives


def sharp(clouds: Clouds, temperature: float) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.sharp_field`."""
    logits = clouds.distances / -above_zero("temperature", temperature)

    def shift(part: Tensor, points: Tensor) -> Tensor:
        # The largest is taken out of numerator and denominator: nothing underflows.
        weights = (part - part.amax(1, keepdim=True)).exp()
        sharpened = (weights * (1 - part)).sum(1, keepdim=True) * temperature**2
        return (weights @ points - weights.sum(1, keepdim=True) * clouds.own) / sharpened

    fake, real = clouds.split(logits)
    return shift(real, clouds.positives) - shift(fake, clouds.negatives)


def kernel_gradient(clouds: Clouds, kernel: Kernel) -> Tensor:
    """See :func:`~lightning_igm.losses.drifting.mmd_field`."""
    _, slopes, _ = kernel.profile(clouds.distances.square())

    def ascent(slopes: Tensor, points: Tensor) -> Tensor:
        moved = slopes.sum(1, keepdim=True) * clouds.own - slopes @ points
        return 2 * moved / len(points) + kernel.linear_weight * points.mean(0)

    fake, real = clouds.split(slopes)
    return ascent(real, clouds.positives) - ascent(fake, clouds.negatives)


class Field(ABC):
    """How fakes are to move, at a temperature: what a drifting model takes as ``field``."""

    def __call__(self, fake: Tensor, real: Tensor, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of the fakes ``(N, D)``, without graph."""
        clouds = Clouds(fake, real)
        with torch.no_grad(), autocast_off(clouds.own):
            return self.displacement(clouds, temperature)

    @abstractmethod
    def displacement(self, clouds: Clouds, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of this rank's fakes."""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class TwoSidedField(Field):
    """:func:`~lightning_igm.losses.drifting.two_sided_field`.

    Args:
        mask: Whether a fake's pair with itself is left out.

    Example:
        >>> TwoSidedField()(torch.zeros(2, 1), torch.ones(2, 1), 1.0).shape
        torch.Size([2, 1])
    """

    def __init__(self, mask: bool = True) -> None:
        self.mask = mask

    def displacement(self, clouds: Clouds, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of this rank's fakes."""
        return two_sided(clouds, temperature, self.mask)


class SinkhornField(Field):
    """:func:`~lightning_igm.losses.drifting.sinkhorn_field` of epsilon ``temperature^2``.

    Temperatures of 0.7 are the published epsilon of 0.5 for features of mean distance 1.

    Args:
        iterations: K.

    Raises:
        ValueError: There are none.

    Example:
        >>> SinkhornField()(torch.zeros(2, 1), torch.ones(2, 1), 0.7)
        tensor([[1.],
                [1.]])
    """

    def __init__(self, iterations: int = 20) -> None:
        self.iterations = positive("iterations", iterations)

    def displacement(self, clouds: Clouds, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of this rank's fakes."""
        return sinkhorn(clouds, temperature**2, self.iterations)


class MeanShiftField(Field):
    """:func:`~lightning_igm.losses.drifting.mean_shift_field`, the temperature as its bandwidth.

    With the Gaussian kernel it is the difference of the scores of two kernel density estimates.

    Args:
        kernel: ``gaussian`` or ``laplace``.
        mask: Whether a fake's pair with itself is left out.

    Raises:
        ValueError: The kernel is another.

    Example:
        >>> MeanShiftField("laplace")(torch.zeros(2, 1), torch.ones(2, 1), 0.5)
        tensor([[1.],
                [1.]])
    """

    def __init__(self, kernel: RadialKernel = "gaussian", mask: bool = False) -> None:
        self.kernel: RadialKernel = one_of("kernel", kernel, get_args(RadialKernel))
        self.mask = mask

    def displacement(self, clouds: Clouds, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of this rank's fakes."""
        return mean_shift(clouds, temperature, self.mask, self.kernel)


class SharpField(Field):
    """:func:`~lightning_igm.losses.drifting.sharp_field`.

    Example:
        >>> SharpField()(torch.zeros(2, 1), torch.ones(2, 1), 1.0).shape
        torch.Size([2, 1])
    """

    def displacement(self, clouds: Clouds, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of this rank's fakes."""
        return sharp(clouds, temperature)


class MMDField(Field):
    """:func:`~lightning_igm.losses.drifting.mmd_field` of features divided by the temperature.

    Args:
        kernel: Of features in units of the temperature; a Gaussian of bandwidth 1 by default, which
            becomes one whose bandwidth is the temperature.

    Raises:
        ValueError: The kernel has no derivative.

    Example:
        >>> MMDField()(torch.zeros(2, 1), torch.ones(2, 1), 1.0)
        tensor([[0.6065],
                [0.6065]])
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel or Gaussian(1.0)
        self.kernel.profile(torch.zeros(1))

    def displacement(self, clouds: Clouds, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of this rank's fakes."""
        above_zero("temperature", temperature)
        scaled = clouds.scaled(torch.full_like(clouds.own[0, 0], temperature))
        return kernel_gradient(scaled, self.kernel) / temperature


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
