"""Features of images that nothing has to learn, and features of a network's layers."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.networks._checks import check_positive
from lightning_igm.networks.base import activations

__all__ = ["DigitFeatures", "ImageStatistics", "LayerFeatures"]

_EPSILON = 1e-6


class ImageStatistics(nn.Module):
    """Pixels, each channel's size, and means and spreads over patches: a feature vector of each.

    Those that "Generative Modeling via Drifting" (Deng, Li, Li, Du and He, 2026,
    https://arxiv.org/abs/2602.04770) takes of images and of an encoder's maps: every channel's
    ``sqrt(mean x^2 + 1e-6)``, and of patches the mean and ``sqrt(variance + 1e-6)``. There is
    nothing to learn. Colours are no part of the paper: they tell a red digit from a blue one
    whatever its shape, where distances of pixels hardly do.

    Args:
        patches: Sizes of patches, in pixels; each gives means and spreads.
        pixels: Whether the pixels are one of the vectors.
        channels: Whether the channels' sizes are one of them.
        colors: Whether each channel's mean weighted by itself, ``sum x^2 / sum x``, is one of them:
            the colour of what is bright in an image.

    Raises:
        ValueError: A size is not positive, or no features are asked for.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import ImageStatistics
        >>> [tuple(f.shape) for f in ImageStatistics(patches=[4])(torch.rand(5, 3, 32, 32))]
        [(5, 3072), (5, 3), (5, 192), (5, 192)]
    """

    def __init__(
        self,
        patches: Sequence[int] = (),
        pixels: bool = True,
        channels: bool = True,
        colors: bool = False,
    ) -> None:
        super().__init__()
        check_positive(**{f"patches[{i}]": size for i, size in enumerate(patches)})
        if not (patches or pixels or channels):
            raise ValueError(
                "patches=(): must have a size if neither pixels nor channels are asked"
            )
        self.patches = tuple(patches)
        self.pixels = pixels
        self.channels = channels
        self.colors = colors

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images ``(N, C, H, W)`` to vectors ``(N, D)``, D different for each."""
        found = [images.flatten(1)] if self.pixels else []
        if self.channels:
            found += [(images.square().mean((2, 3)) + _EPSILON).sqrt()]
        if self.colors:
            found += [images.square().sum((2, 3)) / (images.sum((2, 3)) + _EPSILON)]
        for size in self.patches:
            mean = F.avg_pool2d(images, size)
            square = F.avg_pool2d(images.square(), size)
            spread = ((square - mean.square()).clamp_min(0) + _EPSILON).sqrt()
            found += [mean.flatten(1), spread.flatten(1)]
        return found


class LayerFeatures(nn.Module):
    """Outputs of every layer of a network, after the leaky ReLU that follows, if one does.

    Args:
        network: A critic of the library or an ``nn.Sequential``; see
            :func:`~lightning_igm.networks.activations`.
        last: Whether the network's own output is among them.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import DCGANCritic, LayerFeatures
        >>> features = LayerFeatures(DCGANCritic(width=8), last=False)
        >>> [tuple(f.shape) for f in features(torch.rand(5, 3, 32, 32))]
        [(5, 2048), (5, 1024), (5, 512), (5, 128)]
    """

    def __init__(self, network: nn.Module, last: bool = True) -> None:
        super().__init__()
        self.network = network
        self.last = last

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images ``(N, C, H, W)`` to vectors ``(N, D)``, D different for each."""
        _, layers = activations(self.network, images)
        return [layer.flatten(1) for layer in (layers if self.last else layers[:-1])]


class DigitFeatures(nn.Module):
    """Outputs of all layers of a shipped classifier of digits, after the ReLU that follows, if any.

    Scores of digits have a classifier's features, too: train with that of another data set than the
    one that is scored, ``mnist`` for scikit-learn's digits and ``digits`` for all kinds of MNIST.

    Args:
        weights: What the classifier was trained on: ``digits`` (scikit-learn's) or ``mnist``.

    Raises:
        ValueError: There are none of that name.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import DigitFeatures
        >>> [tuple(f.shape) for f in DigitFeatures("mnist")(torch.rand(5, 3, 16, 16))]
        [(5, 16384), (5, 8192), (5, 3072), (5, 64)]
    """

    def __init__(self, weights: Literal["digits", "mnist"]) -> None:
        super().__init__()
        self.classifier = DigitClassifier.pretrained(weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images ``(N, C, H, W)`` in [0, 1] to vectors ``(N, D)``, D different for each."""
        found: list[Tensor] = []

        def keep(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.append(output.flatten(1))

        body = self.classifier.body
        layers = [layer for layer in body if isinstance(layer, nn.ReLU)]
        hooks = [layer.register_forward_hook(keep) for layer in [*layers, body[-1]]]
        try:
            self.classifier(images)
        finally:
            for hook in hooks:
                hook.remove()
        return found
