"""Collectives of several processes, differentiable any number of times."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered", "summed"]


class _AllSum(torch.autograd.Function):
    """Sum over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return summed(grads[0])


class _Gather(torch.autograd.Function):
    """Rows of all ranks; the gradient of a row is the sum of the ranks' gradients in it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = rows.shape[0]
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return summed(grads[0])[dist.get_rank() * ctx.rows :][: ctx.rows]


# In torch 2.11 a compiled graph with collectives has wrong gradients: they stay out of graphs.
summed: Callable[[Tensor], Tensor] = torch.compiler.disable(_AllSum.apply)
gathered: Callable[[Tensor], Tensor] = torch.compiler.disable(_Gather.apply)
