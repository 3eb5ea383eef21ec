"""What the losses share: their precision, and the form of features."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["as_features", "autocast_off", "couples_images", "widened"]


def couples_images(module: nn.Module) -> bool:
    """Whether what a layer makes of an image in training depends on the rest of the batch.

    Batch norms do, and layers with an attribute ``couples_images`` that is true.
    """
    return isinstance(module, _BatchNorm) or getattr(module, "couples_images", False)


def autocast_off(tensor: Tensor) -> AbstractContextManager[None]:
    """No lower precision on the tensor's device: the losses are small differences."""
    return torch.autocast(tensor.device.type, enabled=False)


def widened(tensor: Tensor) -> Tensor:
    """In float32 if it came in half precision, or as integers."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


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
