"""Rows in parts: of many updates, and of many processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["evenly", "gather_rows", "joined", "same_memory"]


def joined(state: Any) -> Tensor:
    """All rows of a state, which torchmetrics has joined where it has synchronised it."""
    if isinstance(state, Tensor):
        return state
    return state[0] if len(state) == 1 else torch.cat(state)


def evenly(count: int, most: int) -> Tensor:
    """Positions of ``most`` rows among ``count``, the last one included.

    Example:
        >>> evenly(10, 3).tolist()
        [3, 6, 9]
    """
    return (torch.arange(1, most + 1) * count - 1) // most


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """Rows of all processes, of which some may have none; torchmetrics' own takes one shape only.

    Args:
        rows: ``(N, ...)``; of a process that has none, of any shape and type without elements.
        group: The processes; all by default.
    """
    device = rows.device
    if dist.get_backend(group) == "nccl":
        rows = rows.cuda()  # It has no way for what is kept on the CPU.
    about: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(about, (tuple(rows.shape), rows.dtype), group)
    shape, dtype = next((part for part in about if part[0][0]), about[0])
    padded = rows.new_zeros((max(part[0][0] for part in about), *shape[1:]), dtype=dtype)
    if len(rows):
        padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in about]
    dist.all_gather(parts, padded, group)
    return [part[: own[0]].to(device) for part, (own, _) in zip(parts, about, strict=True)]


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether one tensor is a view of the other, or both of a third."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
