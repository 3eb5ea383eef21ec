"""A small digit classifier whose features score images of digits without any download."""

from importlib.resources import files
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_igm.checks import one_of

WEIGHTS = {"digits": "weights/digit_classifier.pt", "mnist": "weights/mnist_classifier.pt"}
"""Files of the shipped weights by what they were trained on."""


class DigitClassifier(nn.Module):
    """LeNet-like network for grey or coloured digits.

    After "Gradient-Based Learning Applied to Document Recognition" (LeCun et al., 1998), with
    ReLU, max pooling and batch normalisation. Images of any size are resized to 32x32 first. The
    features are the standardised activations before the last ReLU: about zero mean and unit
    variance on digits, so that distances between features of two data sets are comparable.

    There are two sets of shipped weights (:meth:`pretrained`), for scikit-learn's digits and for
    MNIST: neither reads the other's digits well. They are made by
    ``python -m lightning_igm.studies.train_digit_classifier``.

    Example:
        >>> import torch
        >>> classifier = DigitClassifier.pretrained()
        >>> features, logits = classifier(torch.rand(2, 3, 16, 16))
        >>> features.shape, logits.shape
        (torch.Size([2, 64]), torch.Size([2, 10]))
    """

    num_features = 64
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(3, 16),
            *_block(16, 32),
            *_block(32, 48),
            nn.Flatten(),
            nn.Linear(48 * 4 * 4, self.num_features),
            nn.BatchNorm1d(self.num_features, affine=False),
        )
        self.head = nn.Linear(self.num_features, self.num_classes)

    @classmethod
    def pretrained(cls, digits: Literal["digits", "mnist"] = "digits") -> Self:
        """Load shipped weights: in eval mode, frozen, on the CPU, without any random draw.

        Args:
            digits: What they were trained on: scikit-learn's digits, or MNIST.

        Raises:
            ValueError: There are none of that name.
        """
        name = WEIGHTS[one_of("digits", digits, tuple(WEIGHTS))]
        with torch.device("meta"):
            classifier = cls()
        with files("lightning_igm.metrics").joinpath(name).open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        classifier.load_state_dict(state, assign=True)
        return classifier.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and class logits.

        Args:
            images: ``(N, C, H, W)`` with 1 or 3 channels and height and width of at least 8:
                floats in [0, 1], or uint8.

        Returns:
            Features ``(N, 64)`` and logits ``(N, 10)``.

        Raises:
            ValueError: If ``images`` have another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 8:
            raise ValueError(
                "images must be (N, C, H, W) with C 1 or 3 and H, W at least 8, "
                f"got {tuple(images.shape)}"
            )
        if images.dtype == torch.uint8:
            images = images.float() / 255.0
        images = images.to(self.head.weight.dtype).expand(-1, 3, -1, -1)
        images = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        features: Tensor = self.body(2.0 * images - 1.0)
        return features, self.head(F.relu(features))


def _block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
