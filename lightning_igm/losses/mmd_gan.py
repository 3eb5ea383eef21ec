"""Terms that the MMD GAN of Li et al. (2017) adds to the maximum mean discrepancy."""

import torch
from torch import Tensor

from lightning_igm.distributed import all_mean
from lightning_igm.losses._support import as_features, autocast_off

__all__ = ["one_sided_term"]


def one_sided_term(x: Tensor, y: Tensor, *, swapped: bool = False) -> Tensor:
    """Mean features of x should not lie below those of y.

    The feasible set reduction of "MMD GAN: Towards Deeper Understanding of Moment Matching Network"
    (Li, Chang, Cheng, Yang and Póczos, 2017, https://arxiv.org/abs/1705.08584), as its code has
    it::

        O = -mean_j max(0, -(mean_i x_ij - mean_i y_ij)),    never above 0

    Args:
        x: Features of real images, ``(N, D)``; ``(N,)`` counts as D = 1.
        y: Features of fakes, ``(M, D)``.
        swapped: Take y for x, as the code of GRAM-nets does.

    Returns:
        ``()``, in float32 or better, over all ranks' images.

    Raises:
        ValueError: The features do not fit.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[0.2, 0.0]]), torch.tensor([[0.0, 0.3]])
        >>> one_sided_term(x, y), one_sided_term(x, y, swapped=True)
        (tensor(-0.1500), tensor(-0.1000))
    """
    x, y = as_features("x", x, least=1), as_features("y", y, least=1)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"y: features of length {y.shape[1]} are not allowed with features x of length "
            f"{x.shape[1]}; the lengths must be equal"
        )
    with autocast_off(x):
        difference = all_mean(x.mean(0) - y.mean(0))
        return -torch.relu(difference if swapped else -difference).mean()
