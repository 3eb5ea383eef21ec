"""What the losses share: their precision, and the form of features."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

__all__ = ["as_features", "autocast_off", "widened"]


def autocast_off(tensor: Tensor) -> AbstractContextManager[None]:
    """No lower precision on the tensor's device: the losses are small differences."""
    return torch.autocast(tensor.device.type, enabled=False)


def widened(tensor: Tensor) -> Tensor:
    """In float32 if it came in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def as_features(name: str, outputs: Tensor) -> Tensor:
    """Outputs of a critic as ``(N, D)``, in float32 or better; ``(N,)`` is one feature.

    Raises:
        ValueError: They have another number of dimensions.
    """
    if outputs.dim() not in (1, 2):
        raise ValueError(
            f"{name}: shape {tuple(outputs.shape)} is not allowed; features must be (N, D) or (N,)"
        )
    return widened(outputs.unsqueeze(1) if outputs.dim() == 1 else outputs)
