"""A small classifier of CIFAR-10 whose features score its images without Inception."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_igm.metrics.extractors import load_state
from lightning_igm.metrics.rng import isolated_rng

__all__ = ["CIFAR10Classifier"]

_COMMAND = "python -m lightning_igm.studies.train_cifar10_classifier --root data"


class CIFAR10Classifier(nn.Module):
    """Residual network for 32x32 colour images: 128 features, 10 logits.

    "Deep Residual Learning for Image Recognition" (He et al., 2015,
    https://arxiv.org/abs/1512.03385), the network of its section 4.2 with three blocks of 32, 64
    and 128 channels in place of 3n of 16, 32 and 64. Its weights do not ship:
    ``python -m lightning_igm.studies.train_cifar10_classifier --root data`` makes them. Scores by
    its features compare with each other only.

    Args:
        weights: File of the weights, loaded by :meth:`prepare`; None for initial weights.

    Example:
        >>> import torch
        >>> features, logits = CIFAR10Classifier()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        >>> features.shape, logits.shape
        (torch.Size([2, 128]), torch.Size([2, 10]))
    """

    num_features = 128
    num_classes = 10

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.weights = None if weights is None else Path(weights)
        self._loaded = weights is None
        # A callback's extractor must not move the run's random state.
        with isolated_rng(0):
            self.body = nn.Sequential(
                nn.Conv2d(3, 32, 3, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                _Block(32, 32),
                _Block(32, 64),
                _Block(64, self.num_features),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
            self.head = nn.Linear(self.num_features, self.num_classes)

    def prepare(self) -> None:
        """Load the weights.

        Raises:
            ValueError: The file is damaged, of another network, or holds more than weights.
            OSError: It is missing.
        """
        if self._loaded or self.weights is None:
            return
        advice = f"{_COMMAND} makes one"
        state = load_state(self.weights, None, advice)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"weights: {str(self.weights)!r} is of another network; {advice}"
            ) from error
        self._loaded = True

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and class logits.

        Args:
            images: ``(N, C, H, W)`` with 1 or 3 channels: floats in [0, 1], or uint8.

        Returns:
            Features ``(N, 128)`` and logits ``(N, 10)``.

        Raises:
            ValueError: If ``images`` have another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images: shape {tuple(images.shape)} is not allowed; it must be (N, C, H, W) with "
                "C 1 or 3"
            )
        self.prepare()
        if images.dtype == torch.uint8:
            images = images.float() / 255.0
        features: Tensor = self.body(2.0 * images.expand(-1, 3, -1, -1) - 1.0)
        return features, self.head(features)


class _Block(nn.Module):
    """Two convolutions and a shortcut; halves the size where the channels grow."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))
