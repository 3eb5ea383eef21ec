"""Helpers of the losses: their precision, and the form of features and logits."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = [
    "as_features",
    "as_logits",
    "as_numbers",
    "autocast_off",
    "couples_images",
    "couples_now",
    "widened",
]


def couples_images(module: nn.Module) -> bool:
    """Whether a layer's output for an image depends, in training, on the rest of the batch.

    Batch norms do, and layers with an attribute ``couples_images`` that is true.
    """
    return isinstance(module, _BatchNorm) or getattr(module, "couples_images", False)


def couples_now(module: nn.Module) -> bool:
    """The same in its present mode: batch norm with running statistics does not in evaluation."""
    is_fixed = not module.training and getattr(module, "track_running_stats", False)
    return couples_images(module) and not is_fixed


def autocast_off(tensor: Tensor) -> AbstractContextManager[None]:
    """No lower precision on the tensor's device: the losses are small differences."""
    return torch.autocast(tensor.device.type, enabled=False)


def widened(tensor: Tensor) -> Tensor:
    """In float32 if it came in half precision, or as integers."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def as_numbers(name: str, tensor: Tensor) -> Tensor:
    """A tensor of real numbers, in float32 or better.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(tensor, Tensor) or tensor.is_complex():
        shown = tensor.dtype if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise ValueError(f"{name}: {shown} is not allowed; it must be a tensor of real numbers")
    return widened(tensor)


def as_features(name: str, outputs: Tensor, *, least: int = 0) -> Tensor:
    """Outputs of a critic as ``(N, D)``, in float32 or better; ``(N,)`` is one feature.

    Args:
        name: Of the argument.
        outputs: ``(N, D)`` or ``(N,)``.
        least: Of N.

    Raises:
        ValueError: They are no real numbers, have another number of dimensions, no features or
            too few rows.
    """
    features = as_numbers(name, outputs)
    if features.dim() not in (1, 2) or 0 in features.shape[1:] or len(features) < least:
        rows = f", with N of {least} or more" if least else ""
        raise ValueError(
            f"{name}: shape {tuple(outputs.shape)} is not allowed; features must be (N, D) or (N,)"
            f"{rows}"
        )
    return features.unsqueeze(1) if features.dim() == 1 else features


def as_logits(name: str, outputs: Tensor) -> Tensor:
    """Outputs of a critic with one for each image, ``(N,)`` or ``(N, 1)``, in float32 or better.

    Raises:
        ValueError: They are no real numbers, there are none, or several for an image.
    """
    logits = as_numbers(name, outputs)
    if logits.numel() == 0 or logits.shape[:1] != (logits.numel(),):
        raise ValueError(
            f"{name}: shape {tuple(outputs.shape)} is not allowed; it must be (N,), with N of 1 or "
            "more: one for each image"
        )
    return logits
