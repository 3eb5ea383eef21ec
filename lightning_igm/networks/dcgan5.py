"""The five-layer critic that CelebA's residual generator meets."""

from itertools import pairwise

from torch import nn

from lightning_igm.networks._checks import check_choice, check_multiple_of_32, check_positive
from lightning_igm.networks._same import same_conv
from lightning_igm.networks.base import LEAKY_SLOPE, SequentialCritic
from lightning_igm.networks.init import SMMDInitName, initialize_smmd_weights
from lightning_igm.networks.spectral import SpectralName, spectral_norm

__all__ = ["DCGAN5Critic"]


class DCGAN5Critic(SequentialCritic):
    """Five convolutions of stride 2 and a linear layer, for large images.

    The CelebA critic of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and
    Gretton, 2018, https://arxiv.org/abs/1805.11565), against a :class:`ResNetGenerator`::

        layer                           output
        ------------------------------  ----------
        image                           160x160x3
        Conv2d 5x5 stride 2, LeakyReLU  80x80x64
        Conv2d 5x5 stride 2, LeakyReLU  40x40x128
        Conv2d 5x5 stride 2, LeakyReLU  20x20x256
        Conv2d 5x5 stride 2, LeakyReLU  10x10x512
        Conv2d 5x5 stride 2, LeakyReLU  5x5x1024
        Linear                          1
        parameters                      17,440,385

    Every layer has a bias, none has batch norm. Padding is TensorFlow's "SAME": one zero before,
    two after. A learnable spectral parametrization adds 6 scales.

    Args:
        image_size: Height and width of the images, a multiple of 32.
        channels: Channels of the images.
        width: Channels of the first map; they double at each smaller map.
        out_dim: Outputs for each image, the D features that a kernel compares.
        spectral: Spectral parametrization of all weights: ``"none"``, ``"learnable"`` with a scale
            for each layer, ``"fixed"`` with scales of 1
            (:func:`~lightning_igm.networks.spectral_norm`).
        init: ``"smmd"`` for the released code's
            (:func:`~lightning_igm.networks.init.initialize_smmd_weights`), or a name of
            :func:`~lightning_igm.networks.initialize_weights`.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import DCGAN5Critic
        >>> critic = DCGAN5Critic(image_size=160, width=4)
        >>> critic(torch.rand(2, 3, 160, 160)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_size: int = 160,
        channels: int = 3,
        width: int = 64,
        out_dim: int = 1,
        spectral: SpectralName = "none",
        init: SMMDInitName = "smmd",
    ) -> None:
        check_positive(channels=channels, width=width, out_dim=out_dim)
        check_choice("spectral", spectral, SpectralName)
        check_multiple_of_32(image_size)
        widths = [channels, width, 2 * width, 4 * width, 8 * width, 16 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [
                *same_conv(inputs, outputs, kernel_size=5, stride=2),
                nn.LeakyReLU(LEAKY_SLOPE),
            ]
        layers += [nn.Flatten(), nn.Linear(16 * width * (image_size // 32) ** 2, out_dim)]

        super().__init__(nn.Sequential(*layers), image_shape=(channels, image_size, image_size))
        initialize_smmd_weights(self, init, LEAKY_SLOPE)
        if spectral != "none":
            spectral_norm(self, spectral)
