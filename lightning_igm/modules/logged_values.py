"""Values that are logged: scalars, of which all ranks' mean is taken."""

from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from lightning_igm.distributed import all_mean, world_size

__all__ = ["mean_values", "scalars"]


def scalars(values: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """Values to be logged as tensors ``()`` without graph, where they are; numbers on the CPU.

    Raises:
        ValueError: One is neither a number nor a tensor of one.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, Real):  # In float64 no digit is lost.
            value = torch.tensor(float(value), dtype=torch.float64)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise ValueError(
                f"{name}: a {type(value).__name__}{shape} is not allowed; what is logged must be a "
                "real number, or a tensor of one"
            )
        found[name] = value.detach().reshape(())
    return found


def mean_values(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """The ranks' mean of every value; the device is waited for, and every rank must call it.

    Raises:
        ValueError: One is neither a number nor a tensor of one.
    """
    found = scalars(values)
    if world_size() > 1:
        stacked = torch.stack([value.to(device).double() for value in found.values()])
        found = dict(zip(found, all_mean(stacked), strict=True))
    return {name: float(value) for name, value in found.items()}
