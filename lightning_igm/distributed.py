"""Collectives that keep a loss the loss of the global batch.

The rule behind them: *the mean over ranks of what each rank differentiates must be the global
loss*. A mean over images obeys it as it is. A loss that is not a mean over images (a squared norm
of mean moments, a ratio, a kernel statistic) first makes its statistics global with
:func:`all_mean` or :func:`gather`. Gradients taken inside a loss (penalties, moments) are taken on
local tensors, before the collective. In a run of one process every function is the identity.
"""

from collections.abc import Callable, Sequence
from typing import Any

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


class _AllSum(torch.autograd.Function):
    """Sum over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_sum(grads[0])


class _Gather(torch.autograd.Function):
    """Rows of all ranks; the gradient of a row is the sum of the ranks' gradients in it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = rows.shape[0]
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_sum(grads[0])[rank() * ctx.rows : (rank() + 1) * ctx.rows]


# In torch 2.11 a compiled graph with collectives has wrong gradients: they stay out of graphs.
_all_sum: Callable[[Tensor], Tensor] = torch.compiler.disable(_AllSum.apply)
_gather: Callable[[Tensor], Tensor] = torch.compiler.disable(_Gather.apply)


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks of a tensor of the same shape on each, differentiable any number of times."""
    if world_size() == 1:
        return tensor
    return _all_sum(tensor)


def all_mean(tensor: Tensor) -> Tensor:
    """Mean over ranks of a tensor of the same shape on each, differentiable any number of times."""
    return all_sum(tensor) / world_size()


def gather(rows: Tensor) -> Tensor:
    """Rows ``(W N, ...)`` of all ranks in rank order, from ``(N, ...)`` on each, differentiable."""
    if world_size() == 1:
        return rows
    return _gather(rows)


def mean_gradients(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Mean of gradients over ranks, by one collective for all of them."""
    size = world_size()
    if size == 1:
        return list(gradients)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / size).split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
