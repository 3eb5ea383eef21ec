"""Kernels on a critic's features, with what the discrepancies need of their derivatives.

The names and constants are those of "On gradient regularizers for MMD GANs" (Arbel, Sutherland,
Bińkowski and Gretton, 2018, https://arxiv.org/abs/1805.11565) and of "Demystifying MMD GANs"
(Bińkowski, Sutherland, Arbel and Gretton, 2018, https://arxiv.org/abs/1801.01401).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, reduce
from typing import NoReturn

import torch
from torch import Tensor

from lightning_igm.checks import above_zero
from lightning_igm.losses._support import as_features, autocast_off

__all__ = [
    "Distance",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Linear",
    "Pairs",
    "RationalQuadratic",
    "Sum",
]

# Of differences kept at once; more pairs go by the expanded square.
_DIRECT_DIFFERENCES = 2**23
_DISTANCE_EPSILON = 1e-5


class Pairs:
    """All pairs of features ``(N, D)`` and ``(M, D)``, and what kernels read off them."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    @cached_property
    def products(self) -> Tensor:
        """Inner products ``(N, M)``."""
        return self.a @ self.b.mT

    @cached_property
    def squared_distances(self) -> Tensor:
        """``(N, M)``, never below 0, and exactly 0 for a pair of a point with itself."""
        if self.a.numel() * len(self.b) <= _DIRECT_DIFFERENCES:
            return (self.a[:, None] - self.b[None]).square().sum(-1)
        # Distances are those of centred points, whose squares cancel with fewer digits lost.
        centre = torch.cat([self.a, self.b]).mean(0).detach()
        a, b = self.a - centre, self.b - centre
        squares = a.square().sum(1)[:, None] + b.square().sum(1)[None]
        distances = torch.addmm(squares, a, b.mT, alpha=-2).clamp_min(0)
        if self.a is not self.b:
            return distances
        return distances.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), 0)


class Kernel(ABC):
    """A positive definite function K(a, b) of two feature vectors.

    A kernel is called with features ``(N, D)`` and ``(M, D)`` and gives ``(N, M)``; features
    ``(N,)`` count as D = 1. It computes in float32 or better whatever autocast says. A new kernel
    has a :meth:`gram` and an :meth:`on_diagonal`; for scaled and gradient-constrained
    discrepancies also a :attr:`scaling_constant` and a :meth:`profile`.
    """

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Values ``(N, M)`` for features ``(N, D)`` and ``(M, D)``.

        Raises:
            ValueError: They are no features, or of different lengths.
        """
        same = a is b
        a = as_features("a", a)
        b = a if same else as_features("b", b)
        if a.shape[1] != b.shape[1]:
            raise ValueError(
                f"b: features of length {b.shape[1]} are not allowed with features a of length "
                f"{a.shape[1]}; the lengths must be equal"
            )
        precision = torch.promote_types(a.dtype, b.dtype)
        with autocast_off(a):
            return self.gram(Pairs(a.to(precision), b.to(precision)))

    def diagonal(self, a: Tensor) -> Tensor:
        """Values ``K(a_i, a_i)`` of shape ``(N,)`` for features ``(N, D)``."""
        a = as_features("a", a)
        with autocast_off(a):
            return self.on_diagonal(a)

    @abstractmethod
    def gram(self, pairs: Pairs) -> Tensor:
        """Values ``(N, M)`` of all pairs."""

    @abstractmethod
    def on_diagonal(self, a: Tensor) -> Tensor:
        """Values ``(N,)`` of features ``(N, D)`` with themselves."""

    @property
    def linear_weight(self) -> float:
        """The number w, where K(a, b) = g(||a - b||^2) + w <a, b>."""
        return 0.0

    @property
    def scaling_constant(self) -> float:
        """The number c in ``sum_i d^2 k(y, z) / dy_i dz_i = c ||J||_F^2`` at y = z.

        Here k(y, z) = K(phi(y), phi(z)) and J is the Jacobian of phi.

        Raises:
            ValueError: The kernel has no such constant.
        """
        self._refuse("scaling_constant")

    def profile(self, squared_distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values g, g' and g'' at squared distances: K(a, b) = g(||a - b||^2) + w <a, b>.

        Raises:
            ValueError: The kernel is not of this form.
        """
        self._refuse("profile")

    def _refuse(self, lacking: str) -> NoReturn:
        raise ValueError(
            f"kernel: {self!r} is not allowed where derivatives of the kernel are needed (scaled, "
            f"gradient-constrained and Lipschitz MMD), for it has no {lacking}; it must have "
            "second derivatives at zero distance, as Gaussian, RationalQuadratic, "
            "InverseMultiquadric, Linear and sums have"
        )

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class _Radial(Kernel):
    """A kernel g(||a - b||^2)."""

    def gram(self, pairs: Pairs) -> Tensor:
        return self.value(pairs.squared_distances)

    def on_diagonal(self, a: Tensor) -> Tensor:
        return self.value(a.new_zeros(len(a)))

    @abstractmethod
    def value(self, squared_distances: Tensor) -> Tensor:
        """Values of g at squared distances."""


class Gaussian(_Radial):
    """``exp(-||a - b||^2 / (2 h^2))``.

    Args:
        bandwidth: h.

    Raises:
        ValueError: The bandwidth is not positive.

    Example:
        >>> import torch
        >>> Gaussian(bandwidth=1.0)(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]]))
        tensor([[1.0000],
                [0.6065]])
    """

    def __init__(self, bandwidth: float = 1.0) -> None:
        self.bandwidth = above_zero("bandwidth", bandwidth)

    def value(self, squared_distances: Tensor) -> Tensor:
        """Values of g at squared distances."""
        # Values too small for a normal number, of points far apart, take a processor 60 times as
        # long as others; here they stop a little above.
        least = 0.85 * math.log(torch.finfo(squared_distances.dtype).tiny)
        return (squared_distances * (-0.5 / self.bandwidth**2)).clamp_min(least).exp()

    def profile(self, squared_distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values of g, g' and g'' at squared distances."""
        value, rate = self.value(squared_distances), -0.5 / self.bandwidth**2
        return value, rate * value, rate**2 * value

    @property
    def scaling_constant(self) -> float:
        """``1 / h^2``."""
        return 1 / self.bandwidth**2


class RationalQuadratic(_Radial):
    """``(1 + ||a - b||^2 / (2 alpha))^(-alpha)``.

    Args:
        alpha: Smaller is heavier-tailed; a Gaussian of bandwidth 1 as it goes to infinity.

    Raises:
        ValueError: Alpha is not positive.

    Example:
        >>> import torch
        >>> RationalQuadratic(alpha=1.0)(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        tensor([[0.3333]])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = above_zero("alpha", alpha)

    def value(self, squared_distances: Tensor) -> Tensor:
        """Values of g at squared distances."""
        return (-self.alpha * (squared_distances / (2 * self.alpha)).log1p()).exp()

    def profile(self, squared_distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values of g, g' and g'' at squared distances."""
        value, base = self.value(squared_distances), 1 + squared_distances / (2 * self.alpha)
        slope = -0.5 * value / base
        return value, slope, -0.5 * (1 + 1 / self.alpha) * slope / base

    @property
    def scaling_constant(self) -> float:
        """The number 1, for every alpha."""
        return 1.0


class InverseMultiquadric(_Radial):
    """``(c^2 + ||a - b||^2)^(-1/2)``.

    Args:
        c: The distance at which the kernel starts to fall.

    Raises:
        ValueError: c is not positive.

    Example:
        >>> import torch
        >>> InverseMultiquadric(c=4.0)(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
        tensor([[0.2000]])
    """

    def __init__(self, c: float = 1.0) -> None:
        self.c = above_zero("c", c)

    def value(self, squared_distances: Tensor) -> Tensor:
        """Values of g at squared distances."""
        return (self.c**2 + squared_distances).rsqrt()

    def profile(self, squared_distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values of g, g' and g'' at squared distances."""
        value = self.value(squared_distances)
        return value, -0.5 * value**3, 0.75 * value**5

    @property
    def scaling_constant(self) -> float:
        """``c^-3``."""
        return self.c**-3


class Linear(Kernel):
    """``<a, b>``.

    Example:
        >>> import torch
        >>> Linear()(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[11.]])
    """

    def gram(self, pairs: Pairs) -> Tensor:
        """Values ``(N, M)`` of all pairs."""
        return pairs.products

    def on_diagonal(self, a: Tensor) -> Tensor:
        """``||a||^2``."""
        return a.square().sum(1)

    def profile(self, squared_distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros: the kernel is its linear part."""
        zeros = torch.zeros_like(squared_distances)
        return zeros, zeros, zeros

    @property
    def linear_weight(self) -> float:
        """The number 1."""
        return 1.0

    @property
    def scaling_constant(self) -> float:
        """The number 1."""
        return 1.0


class Distance(Kernel):
    """``|a| + |b| - |a - b|`` with ``|v| = sqrt(||v||^2 + 1e-5)``, of the energy distance.

    It has no second derivative at zero distance but for the 1e-5, whose root would be the scale:
    scaled, gradient-constrained and Lipschitz MMD refuse it.

    Example:
        >>> import torch
        >>> Distance()(torch.tensor([[3.0]]), torch.tensor([[4.0]])).round(decimals=2)
        tensor([[6.]])
    """

    def gram(self, pairs: Pairs) -> Tensor:
        """Values ``(N, M)`` of all pairs."""
        lengths = _length(pairs.a.square().sum(1))[:, None] + _length(pairs.b.square().sum(1))
        return lengths - _length(pairs.squared_distances)

    def on_diagonal(self, a: Tensor) -> Tensor:
        """``2 |a| - |0|``."""
        return 2 * _length(a.square().sum(1)) - _length(a.new_zeros(len(a)))


class Sum(Kernel):
    """``sum_l w_l K_l(a, b)``.

    Args:
        kernels: The terms.
        weights: Their weights; 1 each by default.

    Raises:
        ValueError: There are no kernels, another number of weights, or a weight that is not
            positive.

    Example:
        The rational quadratic mixture with a linear term of "Demystifying MMD GANs":

        >>> mixture = [RationalQuadratic(alpha) for alpha in (0.1, 1.0, 10.0)]
        >>> Sum([*mixture, Linear()], [1.0, 1.0, 1.0, 0.1]).scaling_constant
        3.1
    """

    def __init__(self, kernels: Sequence[Kernel], weights: Sequence[float] | None = None) -> None:
        self.kernels = list(kernels)
        self.weights = [1.0] * len(self.kernels) if weights is None else list(weights)
        if not self.kernels:
            raise ValueError("kernels: [] is not allowed; it must have one kernel or more")
        if len(self.weights) != len(self.kernels):
            raise ValueError(
                f"weights: {self.weights} is not allowed; it must have a number for each of the "
                f"{len(self.kernels)} kernels"
            )
        for weight in self.weights:
            above_zero("weights", weight)

    def gram(self, pairs: Pairs) -> Tensor:
        """Values ``(N, M)`` of all pairs."""
        return self._total([kernel.gram(pairs) for kernel in self.kernels])

    def on_diagonal(self, a: Tensor) -> Tensor:
        """Values ``(N,)`` of features ``(N, D)`` with themselves."""
        return self._total([kernel.on_diagonal(a) for kernel in self.kernels])

    def profile(self, squared_distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values of g, g' and g'' at squared distances."""
        profiles = [kernel.profile(squared_distances) for kernel in self.kernels]
        value, slope, curvature = zip(*profiles, strict=True)
        return self._total(value), self._total(slope), self._total(curvature)

    @property
    def linear_weight(self) -> float:
        """The weighted sum of the terms'."""
        return sum(w * k.linear_weight for w, k in self._terms)

    @property
    def scaling_constant(self) -> float:
        """The weighted sum of the terms'."""
        return sum(w * k.scaling_constant for w, k in self._terms)

    @property
    def _terms(self) -> list[tuple[float, Kernel]]:
        return list(zip(self.weights, self.kernels, strict=True))

    def _total(self, terms: Sequence[Tensor]) -> Tensor:
        weighted = [weight * term for weight, term in zip(self.weights, terms, strict=True)]
        return reduce(torch.add, weighted)


def _length(squares: Tensor) -> Tensor:
    return (squares + _DISTANCE_EPSILON).sqrt()
