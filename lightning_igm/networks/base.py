"""Base classes of the generators and critics."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from lightning_igm.networks._checks import check_choice, check_shape

__all__ = ["LEAKY_SLOPE", "OutputName", "SequentialCritic", "SequentialGenerator", "activations"]

LEAKY_SLOPE = 0.2
OutputName = Literal["sigmoid", "tanh", "linear"]

_RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}


class SequentialGenerator(nn.Module):
    """A generator whose layers are applied one after the other.

    Args:
        layers: Map latents of shape ``(N, latent_dim)`` to values of shape ``(N, C, H, W)``.
        latent_dim: Length of a latent vector.
        image_shape: ``(C, H, W)`` of the images made, or ``(D,)`` of points.
        output: What makes pixels of the values: ``"sigmoid"`` in [0, 1], ``"tanh"`` in [-1, 1], or
            ``"linear"`` as they are.

    Attributes:
        value_range: Smallest and largest value a pixel can take; None if there are none.

    Raises:
        ValueError: If an argument has a value that is not allowed.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        latent_dim: int,
        image_shape: tuple[int, ...],
        output: OutputName,
    ) -> None:
        check_choice("output", output, OutputName)
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.value_range = _RANGES.get(output)
        last: dict[str, list[nn.Module]] = {"sigmoid": [nn.Sigmoid()], "tanh": [nn.Tanh()]}
        self.layers = nn.Sequential(*layers, *last.get(output, []))

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents of shape ``(N, latent_dim)`` to images of shape ``(N, C, H, W)``.

        Raises:
            ValueError: If the latents have another shape.
        """
        check_shape("latent", latent, (self.latent_dim,))
        images: Tensor = self.layers(latent)
        return images


class SequentialCritic(nn.Module):
    """A critic whose layers are applied one after the other.

    Args:
        layers: Maps images of shape ``(N, C, H, W)`` to outputs of shape ``(N, D)``.
        image_shape: ``(C, H, W)`` of the images judged, or ``(D,)`` of points.
    """

    def __init__(self, layers: nn.Sequential, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape ``(N, C, H, W)`` to logits ``(N,)``, or features ``(N, D)`` if D > 1.

        Raises:
            ValueError: If the images have another shape.
        """
        check_shape("images", images, self.image_shape)
        outputs: Tensor = self.layers(images)
        return outputs.squeeze(1)


def activations(critic: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A critic's outputs and what each of its layers puts out, from one forward pass.

    Linear layers and convolutions are taken after the leaky ReLU that follows, if one does; other
    parts with parameters, such as residual blocks, at their own output. The last is the critic's
    own output, ``(N, D)``, D = 1 included.

    Args:
        critic: A critic of the library, or an ``nn.Sequential``.
        images: ``(N, C, H, W)``.

    Returns:
        The outputs, and the layers' outputs in order.

    Raises:
        ValueError: If the critic is no sequence of layers.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import DCGANCritic
        >>> outputs, hidden = activations(DCGANCritic(width=8), torch.rand(2, 3, 32, 32))
        >>> [tuple(h.shape[1:]) for h in hidden]
        [(8, 16, 16), (16, 8, 8), (32, 4, 4), (128,), (1,)]
    """
    layers = getattr(critic, "layers", critic)
    if not isinstance(layers, nn.Sequential):
        raise ValueError(
            f"critic: {type(critic).__name__} has no attribute layers that is an nn.Sequential"
        )
    kept: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output: kept.append(output))
        for layer in _activated(layers)
    ]
    try:
        return critic(images), kept
    finally:
        for hook in hooks:
            hook.remove()


def _activated(layers: nn.Sequential) -> Iterator[nn.Module]:
    for layer, following in pairwise([*layers, nn.Identity()]):
        if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(following, nn.LeakyReLU):
            yield following
        elif next(layer.parameters(), None) is not None:
            yield layer
