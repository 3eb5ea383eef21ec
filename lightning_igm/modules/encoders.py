"""Frozen encoders, in whose features methods compare images."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.losses._support import autocast_off, couples_now, widened

__all__ = ["FrozenEncoder", "check_same_encoder"]


class FrozenEncoder:
    """A network that is not trained: in eval mode, outside the optimizer and the checkpoint.

    Args:
        network: Maps images ``(N, C, H, W)`` to features, or to several in a list or tuple, each
            ``(N, ...)``; it is frozen. None for the images themselves.

    Attributes:
        identity: Class, structure and weights in a word, to tell another encoder by.

    Raises:
        ValueError: It couples the images of a batch.
    """

    def __init__(self, network: nn.Module | None) -> None:
        self.network = network
        self.identity = _identity(network)
        if network is None:
            return
        network.requires_grad_(False).eval()
        for name, module in network.named_modules():
            if couples_now(module):
                raise ValueError(
                    f"features: layer {name!r} is a {type(module).__name__}, which couples the "
                    "images of a batch; the encoder must make features of each image by itself"
                )

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the network to a device once, before a run: a batch should not wait for it."""
        if self.network is not None:
            self.network.to(device, dtype)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Vectors ``(N, D)`` in float32 or better, D different for each, differentiable in images.

        Raises:
            ValueError: The network gives something else.
        """
        images = widened(images)
        if self.network is None:
            return [images.flatten(1)]
        with autocast_off(images):
            outputs: Any = self.network.to(images.device, images.dtype)(images)
        features = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        for feature in features:
            if not isinstance(feature, Tensor) or feature.shape[:1] != images.shape[:1]:
                shown = getattr(feature, "shape", type(feature).__name__)
                raise ValueError(
                    f"features: {type(self.network).__name__} gives {shown}, which is not allowed; "
                    "it must give tensors with a row for each image, one or several in a list"
                )
        return [feature.flatten(1) for feature in features]


def check_same_encoder(saved: str, own: str) -> None:
    """Check that a run resumes with the encoder that it began with.

    Raises:
        ValueError: It does not.
    """
    if saved != own:
        raise ValueError(
            f"features: {own} is not allowed; the checkpoint was trained with {saved}, and a run "
            "resumes with the same encoder: class, settings and weights"
        )


def _identity(network: nn.Module | None) -> str:
    """Class, structure and weights in a word."""
    if network is None:
        return "images"
    digest = hashlib.sha256(f"{type(network).__module__} {network!r}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return f"{type(network).__name__}-{digest.hexdigest()[:12]}"
