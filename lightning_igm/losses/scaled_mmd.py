"""Scaled maximum mean discrepancy, and the other discrepancies with gradient regularizers.

From "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018,
https://arxiv.org/abs/1805.11565). The kernel on images is k(x, y) = K(phi(x), phi(y)), with a
kernel K on the features of a critic phi.
"""

from torch import Tensor

from lightning_igm.checks import above_zero, non_negative
from lightning_igm.distributed import all_mean
from lightning_igm.losses._support import as_features, as_numbers, autocast_off
from lightning_igm.losses.gradient_constrained import gradient_constrained_mmd2
from lightning_igm.losses.jacobians import (
    Critic,
    features_and_squared_jacobian_norms,
    features_of,
    squared_jacobian_norms,
)
from lightning_igm.losses.kernels import Kernel
from lightning_igm.losses.lipschitz import lipschitz_mmd
from lightning_igm.losses.mmd import Estimator, mmd2

__all__ = [
    "features_and_squared_jacobian_norms",
    "gradient_constrained_mmd2",
    "lipschitz_mmd",
    "smmd2",
    "smmd_scale",
    "squared_jacobian_norms",
    "squared_sigma",
]


def smmd2(
    kernel: Kernel,
    critic: Critic,
    x: Tensor,
    y: Tensor,
    mu: Tensor,
    lam: float,
    *,
    estimator: Estimator = "unbiased",
) -> Tensor:
    """Square of the scaled MMD, ``sigma^2 MMD^2``, of Eq. 7.

    See :func:`squared_sigma` and :func:`~lightning_igm.losses.mmd.mmd2`. The points of mu are
    constants: through the scale nothing reaches what made them.

    Args:
        kernel: K.
        critic: phi, maps images ``(N, ...)`` to features ``(N, D)``, each image by itself.
        x: Real images, ``(N, ...)``.
        y: Fakes, ``(M, ...)``.
        mu: Images ``(L, ...)`` at which the scale is taken; with ``x`` itself the critic makes one
            pass for both.
        lam: lambda, 0 or more.
        estimator: Of the squared MMD; all but ``biased`` can be negative.

    Returns:
        ``()``, over all ranks' images.

    Raises:
        ValueError: Lambda is negative, the kernel has no scaling constant, or the features or
            batches do not fit.

    Example:
        >>> import torch
        >>> from lightning_igm.losses.kernels import Linear
        >>> x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [2.0]])
        >>> value = smmd2(Linear(), lambda image: image, x, y, mu=x, lam=4.0)  # -1 / (4 + 5 + 1)
        >>> round(value.item(), 4)
        -0.1
    """
    if len(mu) == 0:
        raise ValueError("mu: no images are not allowed; it must have 1 or more")
    points, norms = features_and_squared_jacobian_norms(critic, mu.detach())
    real = points if x is mu and not x.requires_grad else features_of(critic, x)
    discrepancy = mmd2(kernel, real, features_of(critic, y), estimator=estimator)
    return squared_sigma(kernel, points, norms, lam) * discrepancy


def squared_sigma(kernel: Kernel, features: Tensor, squared_norms: Tensor, lam: float) -> Tensor:
    """Eq. 7's sigma^2: ``1 / (lambda + mean k(x_i, x_i) + c mean ||J(x_i)||_F^2)``.

    With the kernel's scaling constant c, the last term is the mean of the sum over pixels of
    ``d^2 k(y, z) / dy_i dz_i`` at y = z = x_i.

    Args:
        kernel: K.
        features: Of the points x_i of mu, ``(N, D)``.
        squared_norms: ``||J(x_i)||_F^2``, ``(N,)``
            (:func:`~lightning_igm.losses.jacobians.features_and_squared_jacobian_norms`).
        lam: lambda, 0 or more.

    Returns:
        ``()``, over all ranks' points.

    Raises:
        ValueError: Lambda is negative, the kernel has no scaling constant, or the features and
            norms are not of as many points, one or more.

    Example:
        >>> import torch
        >>> from lightning_igm.losses.kernels import Gaussian
        >>> squared_sigma(Gaussian(0.5), torch.zeros(2, 1), torch.tensor([1.0, 3.0]), lam=1.0)
        tensor(0.1000)
    """
    non_negative("lam", lam)
    constant = kernel.scaling_constant
    features = as_features("features", features, least=1)
    squared_norms = _squared_norms(squared_norms)
    if len(features) != len(squared_norms):
        raise ValueError(
            f"squared_norms: {len(squared_norms)} are not allowed with {len(features)} features; "
            "there must be one for each"
        )
    with autocast_off(features):
        traces = kernel.diagonal(features) + constant * squared_norms
        return 1 / (lam + all_mean(traces.mean()))


def smmd_scale(
    squared_norms: Tensor, features: Tensor | None = None, coefficient: float = 10.0
) -> Tensor:
    """The scale of MMD^2 that the paper's experiments train with, ``1 / (1 + s mean ||J||_F^2)``.

    It is the sigma^2 of Eq. 7 with lambda = 0 for a Gaussian of bandwidth ``1 / sqrt(s)``, whatever
    kernel the MMD^2 is taken with (a Gaussian of bandwidth 1, in the experiments). With features it
    is ``1 / (1 + s (mean ||J(x_i)||_F^2 + mean phi_o(x_i)^2))``, as for SWGAN.

    Args:
        squared_norms: ``||J(x_i)||_F^2`` of real images, ``(N,)``.
        features: phi(x_i), ``(N, D)``; their squares are averaged over images and features.
        coefficient: s.

    Returns:
        ``()``, over all ranks' images.

    Raises:
        ValueError: s is not positive, or there are no norms or features.

    Example:
        >>> import torch
        >>> smmd_scale(torch.tensor([0.1, 0.7]))
        tensor(0.2000)
    """
    above_zero("coefficient", coefficient)
    complexity = _squared_norms(squared_norms).mean()
    if features is not None:
        complexity = complexity + as_features("features", features, least=1).square().mean()
    with autocast_off(complexity):
        return 1 / (1 + coefficient * all_mean(complexity))


def _squared_norms(norms: Tensor) -> Tensor:
    """``(N,)``, in float32 or better."""
    norms = as_numbers("squared_norms", norms)
    if norms.dim() != 1 or len(norms) == 0:
        raise ValueError(
            f"squared_norms: shape {tuple(norms.shape)} is not allowed; it must be (N,), with N "
            "of 1 or more"
        )
    return norms
