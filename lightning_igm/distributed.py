"""Collectives that keep a loss the loss of the global batch.

The rule behind them: *the mean over ranks of what each rank differentiates must be the global
loss*. A mean over images obeys it as it is. A loss that is not a mean over images (a squared norm
of mean moments, a ratio, a kernel statistic) first makes its statistics global with
:func:`all_mean` or :func:`gather`. Gradients taken inside a loss (penalties, moments) are taken on
local tensors, before the collective. In a run of one process every function is the identity.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_mean", "all_sum", "gather", "mean_gradients", "rank", "world_size"]


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process in the run."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks of a tensor of the same shape on each, differentiable any number of times."""
    if world_size() == 1:
        return tensor
    # Only here, as it loads torch's compiler, which takes a second.
    from lightning_igm._collectives import summed

    return summed(tensor)


def all_mean(tensor: Tensor) -> Tensor:
    """Mean over ranks of a tensor of the same shape on each, differentiable any number of times."""
    return all_sum(tensor) / world_size()


def gather(rows: Tensor) -> Tensor:
    """Rows ``(W N, ...)`` of all ranks in rank order, from ``(N, ...)`` on each, differentiable."""
    if world_size() == 1:
        return rows
    from lightning_igm._collectives import gathered

    return gathered(rows)


def mean_gradients(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Mean of gradients over ranks, by one collective for all of them."""
    size = world_size()
    if size == 1:
        return list(gradients)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / size).split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
