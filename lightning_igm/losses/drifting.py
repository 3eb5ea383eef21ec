"""Drifting: fakes regress onto themselves, moved by a field that fakes and reals make.

"Generative Modeling via Drifting" (Deng, Li, Li, Du and He, 2026, https://arxiv.org/abs/2602.04770)
and the fields of its relatives. A field has no gradient, under several ranks it is that of the
joined samples, and it gives the displacements of this rank's fakes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_igm.checks import above_zero, one_of
from lightning_igm.distributed import all_mean
from lightning_igm.losses._clouds import (
    Clouds,
    RadialKernel,
    kernel_gradient,
    mean_distance,
    mean_shift,
    sharp,
    sinkhorn,
    two_sided,
)
from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.fields import Field
from lightning_igm.losses.kernels import Kernel

__all__ = [
    "drifting_loss",
    "drifting_loss_and_drifts",
    "mean_shift_field",
    "mmd_field",
    "sharp_field",
    "sinkhorn_field",
    "two_sided_field",
]

_LEAST_NORM = 1e-12


def two_sided_field(fake: Tensor, real: Tensor, temperature: float, *, mask: bool = True) -> Tensor:
    """The field of the paper's Algorithm 2, without the floor of its released code.

    With columns c, the N fakes x and then the M reals y::

        l_ij = -||x_i - c_j|| / temperature
        A_ij = sqrt(softmax over the row * softmax over the column) of l
        V_i = (sum_x A_ij) (sum_y A_ij y_j) - (sum_y A_ij) (sum_x A_ij x_j)

    with sums over the fakes and over the reals; a column has a row for each of the N fakes.

    Args:
        fake: x, features ``(N, D)``; ``(N,)`` counts as D = 1.
        real: y, features ``(M, D)``.
        temperature: In the unit of distances.
        mask: Whether a fake's pair with itself is left out. Without, the field is zero if the
            samples are equal.

    Returns:
        ``(N, D)``, without graph.

    Raises:
        ValueError: The features do not fit, the temperature is not positive, or there is one fake
            with ``mask``.

    Example:
        >>> x = torch.tensor([0.0, 1.0])
        >>> two_sided_field(x, x, 0.5, mask=False).abs().max() < 1e-6
        tensor(True)
    """
    return _displacement(two_sided, fake, real, temperature, mask)


def sinkhorn_field(fake: Tensor, real: Tensor, epsilon: float, *, iterations: int = 20) -> Tensor:
    """Differences of two barycentres, of plans that Sinkhorn's iterations make.

    "Sinkhorn-Drifting Generative Models" (He et al., 2026, https://arxiv.org/abs/2603.12366)::

        V_i = sum_j P_ij y_j - sum_j Q_ij x_j

    with P the plan between x and y for the cost ``||x_i - y_j||^2`` and entropy epsilon, Q that
    between x and x, and rows that sum to 1. After many iterations it is -N/2 times the gradient of
    the Sinkhorn divergence in x_i, and zero only where the samples agree.

    Args:
        fake: x, features ``(N, D)``.
        real: y, features ``(M, D)``.
        epsilon: In the unit of squared distances.
        iterations: Of rows and then columns; the rows are normalised once more at the end.

    Returns:
        ``(N, D)``, without graph.

    Raises:
        ValueError: The features do not fit, epsilon is not positive, or there are no iterations.

    Example:
        >>> sinkhorn_field(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 7.0]), 0.5)
        tensor([[1.],
                [2.]])
    """
    return _displacement(sinkhorn, fake, real, epsilon, iterations)


def mean_shift_field(
    fake: Tensor,
    real: Tensor,
    bandwidth: float,
    *,
    mask: bool = False,
    kernel: RadialKernel = "gaussian",
) -> Tensor:
    """Mean shift towards reals less that towards fakes, the one-sided field of the paper's text.

    With weights that are a softmax over j of ``-||x_i - c_j||^2 / (2 h^2)``, or of
    ``-||x_i - c_j|| / h`` (``laplace``), c = y or x::

        V_i = sum_j w(x_i, y_j) y_j - sum_j w(x_i, x_j) x_j

    With a Gaussian it is h^2 times the difference of the scores of two kernel density estimates.

    Args:
        fake: x, features ``(N, D)``.
        real: y, features ``(M, D)``.
        bandwidth: h.
        mask: Whether a fake's pair with itself is left out.
        kernel: ``gaussian`` or ``laplace``.

    Returns:
        ``(N, D)``, without graph.

    Raises:
        ValueError: The features do not fit, h is not positive, the kernel is another, or there is
            one fake with ``mask``.

    Example:
        >>> mean_shift_field(torch.tensor([0.0]), torch.tensor([1.0, 1.0]), 1.0)
        tensor([[1.]])
    """
    one_of("kernel", kernel, get_args(RadialKernel))
    return _displacement(mean_shift, fake, real, bandwidth, mask, kernel)


def sharp_field(fake: Tensor, real: Tensor, temperature: float) -> Tensor:
    """The conservative field of a Laplace kernel.

    Franz et al., 2026, https://arxiv.org/abs/2604.06333: with ``k(r) = exp(-r/t)`` and
    ``k'(r) = t (r + t) exp(-r/t)`` of the distances r, the difference of gradients of
    ``log sum_j k'(x, y_j)`` and ``log sum_j k'(x, x_j)``::

        V_i = sum_j k(x_i, y_j) (y_j - x_i) / sum_j k'(x_i, y_j)
              - sum_j k(x_i, x_j) (x_j - x_i) / sum_j k'(x_i, x_j)

    Args:
        fake: x, features ``(N, D)``.
        real: y, features ``(M, D)``.
        temperature: t.

    Returns:
        ``(N, D)``, without graph.

    Raises:
        ValueError: The features do not fit, or the temperature is not positive.

    Example:
        >>> sharp_field(torch.tensor([0.0]), torch.tensor([1.0]), 1.0)
        tensor([[0.5000]])
    """
    return _displacement(sharp, fake, real, temperature)


def mmd_field(fake: Tensor, real: Tensor, kernel: Kernel) -> Tensor:
    """-N/2 times the gradient of the biased MMD^2 in each fake.

    With it as a field, drifting is an MMD network: ``mean_j dK(x_i, y_j) - mean_j dK(x_i, x_j)``,
    d the gradient in the first argument.

    Args:
        fake: x, features ``(N, D)``.
        real: y, features ``(M, D)``.
        kernel: K, with a derivative at zero distance.

    Returns:
        ``(N, D)``, without graph.

    Raises:
        ValueError: The features do not fit, or the kernel has no such derivative.

    Example:
        >>> from lightning_igm.losses.kernels import Gaussian
        >>> mmd_field(torch.tensor([0.0]), torch.tensor([1.0]), Gaussian(1.0))
        tensor([[0.6065]])
    """
    return _displacement(kernel_gradient, fake, real, kernel)


def drifting_loss(
    fake: Tensor,
    real: Tensor,
    *,
    temperatures: Sequence[float] = (0.02, 0.05, 0.2),
    field: Field | Callable[..., Tensor] = two_sided_field,
) -> Tensor:
    """Squared error of the fakes to themselves, moved by a field at several temperatures.

    With x and y divided by S, so that the mean distance of a fake to all fakes and reals is
    sqrt(D), and V_t the field at temperature t sqrt(D)::

        L = mean (x - constant(x + V))^2,    V = sum_t V_t / sqrt(mean V_t^2)

    The gradient follows V. The value lies between 0 and the squared number of temperatures and says
    nothing about progress: see :func:`drifting_loss_and_drifts`.

    Args:
        fake: x, features ``(N, D)``, differentiable in the generator.
        real: y, features ``(M, D)``.
        temperatures: t, as parts of the mean distance.
        field: Is called with x, y and a temperature.

    Returns:
        ``()``, over all ranks' fakes.

    Raises:
        ValueError: The features do not fit, or there is no temperature or one that is not positive.

    Example:
        >>> fake, real = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
        >>> round(drifting_loss(fake.requires_grad_(), real, temperatures=[0.2]).item(), 4)
        1.0
    """
    return drifting_loss_and_drifts(fake, real, temperatures=temperatures, field=field)[0]


def drifting_loss_and_drifts(
    fake: Tensor,
    real: Tensor,
    *,
    temperatures: Sequence[float] = (0.02, 0.05, 0.2),
    field: Field | Callable[..., Tensor] = two_sided_field,
) -> tuple[Tensor, Tensor]:
    """The loss of :func:`drifting_loss` ``()``, and ``mean V_t^2`` of each temperature ``(T,)``.

    The latter fall as the generator improves.
    """
    if len(temperatures) == 0:
        raise ValueError("temperatures: [] is not allowed; it must have one or more")
    for temperature in temperatures:
        above_zero("temperatures", temperature)
    clouds = Clouds(fake, real)
    x = as_features("fake", fake).to(clouds.points.dtype)
    with torch.no_grad(), autocast_off(x):
        root = math.sqrt(x.shape[1])
        scale = (mean_distance(clouds) / root).clamp_min(_LEAST_NORM)
        fields = _fields(field, clouds, scale, [root * each for each in temperatures])
        # A field in the unit of features, divided by its norm, is what it is divided by scale.
        drifts = all_mean(torch.linalg.vector_norm(fields, dim=(1, 2)).square() / fields[0].numel())
        rates = drifts.sqrt().clamp_min(_LEAST_NORM * scale).reciprocal()
        move = torch.tensordot(rates, fields, dims=1)
    with autocast_off(x):
        scaled = x / scale
        loss = F.mse_loss(scaled, scaled.detach() + move)
        return all_mean(loss), drifts / scale.square()


def _displacement(
    rule: Callable[..., Tensor], fake: Tensor, real: Tensor, *settings: Any
) -> Tensor:
    clouds = Clouds(fake, real)
    with torch.no_grad(), autocast_off(clouds.points):
        return rule(clouds, *settings) @ clouds.points


# The rules of public functions that are called with a temperature.
_RULES: dict[Any, Callable[..., Tensor]] = {
    two_sided_field: two_sided,
    sinkhorn_field: sinkhorn,
    mean_shift_field: mean_shift,
    sharp_field: sharp,
}


def _fields(
    field: Field | Callable[..., Tensor], clouds: Clouds, scale: Tensor, temperatures: list[float]
) -> Tensor:
    """Fields ``(T, N, D)`` of features divided by a scale, times the scale."""
    rule = field.weights if isinstance(field, Field) else _RULES.get(field)
    if rule is None:
        fake, real = clouds.own(clouds.points / scale)
        return torch.stack([field(fake, real, each) for each in temperatures]) * scale
    # One product for all temperatures, of distances that are known.
    scaled = clouds.scaled(clouds.distances / scale)
    weights = torch.cat([rule(scaled, each) for each in temperatures])
    fields: Tensor = (weights @ clouds.points).unflatten(0, (len(temperatures), -1))
    return fields
