"""Fields that move generated samples towards real ones, as a module and the command line take them.

Each is a displacement of every fake, made of the fakes and the reals without gradient; the formulas
are those of the functions of :mod:`.drifting`.
"""

from abc import ABC, abstractmethod
from typing import get_args

import torch
from torch import Tensor

from lightning_igm.checks import above_zero, one_of, positive
from lightning_igm.losses._clouds import (
    Clouds,
    RadialKernel,
    kernel_gradient,
    mean_shift,
    sharp,
    sinkhorn,
    two_sided,
)
from lightning_igm.losses._support import autocast_off
from lightning_igm.losses.kernels import Gaussian, Kernel

__all__ = [
    "Field",
    "MMDField",
    "MeanShiftField",
    "SharpField",
    "SinkhornField",
    "TwoSidedField",
]


class Field(ABC):
    """How fakes are to move, at a temperature: what a drifting model takes as ``field``."""

    def __call__(self, fake: Tensor, real: Tensor, temperature: float) -> Tensor:
        """Displacements ``(N, D)`` of the fakes ``(N, D)``, without graph."""
        clouds = Clouds(fake, real)
        with torch.no_grad(), autocast_off(clouds.points):
            return self.weights(clouds, temperature) @ clouds.points

    @abstractmethod
    def weights(self, clouds: Clouds, temperature: float) -> Tensor:
        """Weights ``(N, C)`` of all fakes and reals in the displacements of this rank's fakes."""

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

    def weights(self, clouds: Clouds, temperature: float) -> Tensor:
        """Weights ``(N, C)`` of all fakes and reals in the displacements of this rank's fakes."""
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

    def weights(self, clouds: Clouds, temperature: float) -> Tensor:
        """Weights ``(N, C)`` of all fakes and reals in the displacements of this rank's fakes."""
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

    def weights(self, clouds: Clouds, temperature: float) -> Tensor:
        """Weights ``(N, C)`` of all fakes and reals in the displacements of this rank's fakes."""
        return mean_shift(clouds, temperature, self.mask, self.kernel)


class SharpField(Field):
    """:func:`~lightning_igm.losses.drifting.sharp_field`.

    Example:
        >>> SharpField()(torch.zeros(2, 1), torch.ones(2, 1), 1.0).shape
        torch.Size([2, 1])
    """

    def weights(self, clouds: Clouds, temperature: float) -> Tensor:
        """Weights ``(N, C)`` of all fakes and reals in the displacements of this rank's fakes."""
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

    def weights(self, clouds: Clouds, temperature: float) -> Tensor:
        """Weights ``(N, C)`` of all fakes and reals in the displacements of this rank's fakes."""
        scaled = clouds.scaled(clouds.distances / above_zero("temperature", temperature))
        return kernel_gradient(scaled, self.kernel) / temperature**2
