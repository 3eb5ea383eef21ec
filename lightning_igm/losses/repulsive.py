"""The critic's loss of repulsive MMD GAN, on features of images."""

import torch
from torch import Tensor

from lightning_igm.checks import above_zero
from lightning_igm.distributed import all_mean, gather, rank
from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.kernels import Gaussian, Pairs

__all__ = ["check_repulsion", "repulsive_critic_loss"]


def repulsive_critic_loss(
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = -1.0,
    bounded: bool = True,
    bandwidth: float = 1.0,
    lower: float = 0.25,
    upper: float = 4.0,
) -> Tensor:
    """The critic's loss: features of reals repel each other, those of fakes attract.

    "Improving MMD-GAN Training with Repulsive Loss Function" (Wang, Sun and Halgamuge, 2019,
    https://arxiv.org/abs/1812.09916), Eq. 5, with a Gaussian kernel k, features a of reals and b of
    fakes, and means over i != j, the mixed one too::

        L = (weight + 1) mean k(a, b) - mean k(b, b) - weight mean k(a, a)

    The weight -1 is the repulsive loss, ``mean k(a, a) - mean k(b, b)``, and 1 is minus the MMD^2.
    Bounded (Eq. 7), pairs of reals farther than ``upper`` and pairs of fakes nearer than ``lower``,
    both squared distances, have no gradient: distances there count as the bound.

    Args:
        real: a, features ``(N, D)``; ``(N,)`` counts as D = 1.
        fake: b, features ``(N, D)``.
        weight: From -1 to 1; with ``bounded`` it must be -1.
        bounded: Whether distances are bounded.
        bandwidth: Of the kernel.
        lower: Least squared distance of fakes.
        upper: Largest squared distance of reals.

    Returns:
        ``()``, of all ranks' images.

    Raises:
        ValueError: The features do not fit, there are fewer than two of a kind or unequal numbers,
            or an argument is out of range.

    Example:
        >>> import torch
        >>> real, fake = torch.tensor([0.0, 3.0]), torch.tensor([0.0, 0.1])
        >>> repulsive_critic_loss(real, fake)
        tensor(-0.7472)
        >>> repulsive_critic_loss(real, fake, bounded=False)
        tensor(-0.9839)
    """
    kernel = Gaussian(bandwidth)
    check_repulsion(weight, bounded, lower, upper)
    a, b = as_features("real", real), as_features("fake", fake)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"fake: features of length {b.shape[1]} are not allowed with reals of length "
            f"{a.shape[1]}; the lengths must be equal"
        )
    with autocast_off(a):
        all_a, all_b = gather(a), gather(b)
        if len(all_a) < 2 or len(all_a) != len(all_b):
            raise ValueError(
                f"fake: a batch of {len(all_b)} is not allowed with {len(all_a)} reals; both must "
                "be of one size, 2 or more"
            )
        reals, fakes = (
            Pairs(own, every).squared_distances for own, every in ((a, all_a), (b, all_b))
        )
        if bounded:
            # Not clamp, which has a gradient at the bound.
            reals = torch.where(reals < upper, reals, upper)
            fakes = torch.where(fakes > lower, fakes, lower)
        loss = -_off_diagonal(kernel.value(fakes)) - weight * _off_diagonal(kernel.value(reals))
        if weight != -1:
            loss = loss + (weight + 1) * _off_diagonal(kernel(a, all_b))
        return all_mean(loss)


def _off_diagonal(gram: Tensor) -> Tensor:
    """Mean over this rank's rows of their mean with the points of other indices."""
    rows, columns = gram.shape
    own = gram.diagonal(offset=rank() * rows)
    return (gram.sum() - own.sum()) / (rows * (columns - 1))


def check_repulsion(weight: float, bounded: bool, lower: float, upper: float) -> None:
    """Check the settings of :func:`repulsive_critic_loss`.

    Raises:
        ValueError: One is out of range.
    """
    if not -1 <= weight <= 1:
        raise ValueError(f"weight: {weight} is not allowed; it must be from -1 to 1")
    if bounded and weight != -1:
        raise ValueError(f"weight: {weight} is not allowed with bounded=True; it must be -1")
    if above_zero("lower", lower) >= above_zero("upper", upper):
        raise ValueError(f"lower: {lower} is not allowed; it must be below upper, {upper}")
