"""Autoencoders: one whose codes are to be generated, and a critic with a decoder."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from lightning_igm.networks._checks import check_positive, check_shape

__all__ = ["Autoencoder", "AutoencoderCritic", "Drop"]

Drop = Callable[[Tensor, float], Tensor]
"""Zeroes a share of hidden units, and scales up the others."""


class Autoencoder(nn.Module):
    """Fully connected autoencoder of sigmoid layers.

    That of "Generative Moment Matching Networks" (Li, Swersky and Zemel, 2015,
    https://arxiv.org/abs/1502.02761), whose generator makes codes; for MNIST 784-1024-32-1024-784,
    of 1,674,032 parameters. Codes and reconstructions are in [0, 1]. Weights are Glorot's, from
    U[-a, a] with a^2 = 6 / (inputs + outputs), and biases 0.

    Args:
        image_shape: ``(C, H, W)`` of images in [0, 1].
        hidden: Sizes of the encoder's hidden layers; the decoder mirrors them.
        code_dim: Size of a code.
        dropout: Share of each encoder layer's inputs that are dropped in its own training.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import Autoencoder
        >>> autoencoder = Autoencoder(image_shape=(1, 28, 28), hidden=(1024,), code_dim=32)
        >>> codes = autoencoder.encode(torch.rand(5, 1, 28, 28))
        >>> codes.shape, autoencoder.decode(codes).shape
        (torch.Size([5, 32]), torch.Size([5, 1, 28, 28]))
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = (1024,),
        code_dim: int = 32,
        dropout: Sequence[float] = (0.2, 0.5),
    ) -> None:
        super().__init__()
        check_positive(
            code_dim=code_dim, hidden=min(hidden, default=1), image_shape=min(image_shape)
        )
        self.image_shape = tuple(image_shape)
        self.code_dim = code_dim
        self.dropout = tuple(dropout)
        sizes = [prod(self.image_shape), *hidden, code_dim]
        if len(self.dropout) != len(sizes) - 1 or not all(0 <= p < 1 for p in self.dropout):
            raise ValueError(
                f"dropout={list(self.dropout)!r}: must be {len(sizes) - 1} numbers in [0, 1), one "
                "for each of the encoder's layers"
            )
        self.encoder = nn.ModuleList(map(_linear, pairwise(sizes)))
        self.decoder = nn.ModuleList(map(_linear, pairwise(sizes[::-1])))

    @property
    def depth(self) -> int:
        """Number of the encoder's layers."""
        return len(self.encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions of images, both ``(N, C, H, W)``."""
        return self.decode(self.encode(images))

    def encode(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Codes ``(N, code_dim)`` of images ``(N, C, H, W)``, or what the first layers make.

        Args:
            images: In [0, 1].
            depth: Number of layers applied; all by default.
        """
        check_shape("images", images, self.image_shape)
        hidden = images.flatten(1)
        for linear in list(self.encoder)[:depth]:
            hidden = torch.sigmoid(linear(hidden))
        return hidden

    def decode(self, codes: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` of codes ``(N, code_dim)``."""
        check_shape("codes", codes, (self.code_dim,))
        for linear in self.decoder:
            codes = torch.sigmoid(linear(codes))
        images: Tensor = codes.unflatten(1, self.image_shape)
        return images

    def reconstruct(self, hidden: Tensor, levels: range, drop: Drop) -> Tensor:
        """Pass values in [0, 1] through some layers of the encoder, and back through their mirrors.

        Args:
            hidden: What the encoder's layers before them make, ``(N, K)``.
            levels: Numbers of the encoder's layers, from 0.
            drop: Drops units.

        Returns:
            Logits ``(N, K)`` of the values that come back.
        """
        for level in levels:
            hidden = torch.sigmoid(self.encoder[level](drop(hidden, self.dropout[level])))
        for level in levels[:0:-1]:
            hidden = torch.sigmoid(self.decoder[-1 - level](hidden))
        logits: Tensor = self.decoder[-1 - levels[0]](hidden)
        return logits

    def parameters_of(self, levels: range) -> list[nn.Parameter]:
        """Parameters of some layers of the encoder and of their mirrors."""
        layers = [half[i] for i in levels for half in (self.encoder, self.decoder[::-1])]
        return [parameter for layer in layers for parameter in layer.parameters()]


class AutoencoderCritic(nn.Module):
    """A critic, the encoder, with a decoder of its features that learns with it.

    Args:
        encoder: Maps images ``(N, C, H, W)`` to features ``(N, D)`` or ``(N,)``.
        decoder: Maps features ``(N, D)`` to images ``(N, C, H, W)``.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """Features of images: what the encoder makes."""
        features: Tensor = self.encoder(images)
        return features


def _linear(sizes: tuple[int, int]) -> nn.Linear:
    linear = nn.Linear(*sizes)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
