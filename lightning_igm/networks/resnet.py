"""Residual generators and critics."""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from lightning_igm.networks._checks import check_choice, check_multiple_of_32, check_positive
from lightning_igm.networks._same import same_conv, same_deconv
from lightning_igm.networks.base import (
    LEAKY_SLOPE,
    OutputName,
    SequentialCritic,
    SequentialGenerator,
)
from lightning_igm.networks.init import SMMDInitName, initialize_smmd_weights
from lightning_igm.networks.spectral import SpectralName, spectral_norm

__all__ = ["ResNetCritic", "ResNetGenerator", "ResidualBlock"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, and a shortcut past them.

    ::

        "up"    [BN] ReLU 2x conv(in, out) [BN] ReLU conv(out, out)      + 2x conv1x1
        "down"  [BN] ReLU conv(in, in) [BN] ReLU conv(in, out) mean2x2   + mean2x2 conv1x1
        "none"  [BN] ReLU conv(in, in) [BN] ReLU conv(in, out)           + identity, if in = out

    2x repeats each pixel. The first convolution has no bias.

    Args:
        in_channels: Channels of the map that comes in.
        out_channels: Channels of the map that goes out.
        resample: Whether the map gets twice (``"up"``) or half (``"down"``) the size.
        batch_norm: Whether there is batch norm before each ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resample: Literal["up", "down", "none"] = "none",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = out_channels if resample == "up" else in_channels
        up = [nn.Upsample(scale_factor=2)] if resample == "up" else []
        down = [nn.AvgPool2d(2)] if resample == "down" else []
        self.residual = nn.Sequential(
            *([nn.BatchNorm2d(in_channels)] if batch_norm else []),
            nn.ReLU(),
            *up,
            nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1, bias=False),
            *([nn.BatchNorm2d(hidden)] if batch_norm else []),
            nn.ReLU(),
            nn.Conv2d(hidden, out_channels, kernel_size=3, padding=1),
            *down,
        )
        identity = resample == "none" and in_channels == out_channels
        conv = [] if identity else [nn.Conv2d(in_channels, out_channels, kernel_size=1)]
        self.shortcut = nn.Sequential(*up, *down, *conv)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(N, out_channels, s H, s W)`` from ``(N, in_channels, H, W)``, s in 2, 1/2, 1."""
        total: Tensor = self.residual(maps) + self.shortcut(maps)
        return total


class SumPool(nn.Module):
    """Sum over space."""

    def forward(self, maps: Tensor) -> Tensor:
        """``(N, C)`` from ``(N, C, H, W)``."""
        return maps.sum((2, 3))


class ResNetGenerator(SequentialGenerator):
    """Generator of residual blocks, each of which doubles the size.

    The ImageNet and CelebA generators of "On gradient regularizers for MMD GANs" (Arbel,
    Sutherland, Bińkowski and Gretton, 2018, https://arxiv.org/abs/1805.11565), after "Spectral
    Normalization for Generative Adversarial Networks" (Miyato, Kataoka, Koyama and Yoshida, 2018,
    https://arxiv.org/abs/1802.05957)::

        layer                         ImageNet     CelebA
        ----------------------------  -----------  -----------
        latent                        128          128
        Linear                        4x4x1024     5x5x1024
        ResidualBlock up              8x8x512      10x10x512
        ResidualBlock up              16x16x256    20x20x256
        ResidualBlock up              32x32x128    40x40x128
        ResidualBlock up              64x64x64     80x80x64
        BatchNorm2d, ReLU
        ConvTranspose2d 3x3, output   64x64x3
        ConvTranspose2d 5x5 stride 2, output       160x160x3
        image_size                    64           160
        batch_norm, strided_output    true, false  false, true
        parameters                    12,219,715   13,405,891

    Sizes other than 64 without ``strided_output`` begin with one more block that keeps the
    channels.

    Args:
        latent_dim: Length of a latent vector.
        image_size: Height and width of the images, a multiple of 32.
        channels: Channels of the images.
        width: Channels of the last map; they double at each smaller map.
        batch_norm: Whether the residual blocks have batch norm.
        strided_output: Whether the last layer doubles the size once more, in place of a block.
        output: ``"sigmoid"`` for pixels in [0, 1], ``"tanh"`` for pixels in [-1, 1], or
            ``"linear"``.
        init: ``"smmd"`` for the released code's, which is Glorot's uniform one in residual blocks
            (:func:`~lightning_igm.networks.init.initialize_smmd_weights`), or a name of
            :func:`~lightning_igm.networks.initialize_weights`.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import ResNetGenerator
        >>> generator = ResNetGenerator(latent_dim=128, image_size=64, width=4)
        >>> generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_size: int = 64,
        channels: int = 3,
        width: int = 64,
        batch_norm: bool = True,
        strided_output: bool = False,
        output: OutputName = "sigmoid",
        init: SMMDInitName = "smmd",
    ) -> None:
        check_positive(latent_dim=latent_dim, channels=channels, width=width)
        check_multiple_of_32(image_size)
        widths = [16 * width, 8 * width, 4 * width, 2 * width, width]
        start = image_size // 32
        if not strided_output and image_size == 64:
            start = 4
        elif not strided_output:
            widths = [16 * width, *widths]

        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * start**2),
            nn.Unflatten(1, (widths[0], start, start)),
            *(
                ResidualBlock(inputs, outputs, "up", batch_norm)
                for inputs, outputs in pairwise(widths)
            ),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *same_deconv(width, channels, *((5, 2) if strided_output else (3, 1))),
        ]

        super().__init__(layers, latent_dim, (channels, image_size, image_size), output)
        initialize_smmd_weights(self, init, glorot_in=ResidualBlock)


class ResNetCritic(SequentialCritic):
    """Critic of residual blocks, each of which halves the size.

    The ImageNet critic of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and
    Gretton, 2018, https://arxiv.org/abs/1805.11565)::

        layer                           output
        ------------------------------  ----------
        image                           64x64x3
        Conv2d 3x3, LeakyReLU           64x64x64
        ResidualBlock down              32x32x128
        ResidualBlock down              16x16x256
        ResidualBlock down              8x8x512
        ResidualBlock down              4x4x1024
        LeakyReLU, sum over space       1024
        Linear                          1
        parameters                      10,103,297

    No layer has batch norm. Sizes other than 64 have one more block, which keeps size and channels.
    A learnable spectral parametrization adds 14 scales: shortcuts have them, too.

    Args:
        image_size: Height and width of the images, a multiple of 32.
        channels: Channels of the images.
        width: Channels of the first map; they double at each smaller map.
        out_dim: Outputs for each image, the D features that a kernel compares.
        spectral: Spectral parametrization of all weights: ``"none"``, ``"learnable"`` with a scale
            for each layer, ``"fixed"`` with scales of 1
            (:func:`~lightning_igm.networks.spectral_norm`).
        init: ``"smmd"`` for the released code's, which is Glorot's uniform one in residual blocks
            (:func:`~lightning_igm.networks.init.initialize_smmd_weights`), or a name of
            :func:`~lightning_igm.networks.initialize_weights`.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import ResNetCritic
        >>> critic = ResNetCritic(image_size=64, width=4, spectral="learnable")
        >>> critic(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        width: int = 64,
        out_dim: int = 1,
        spectral: SpectralName = "none",
        init: SMMDInitName = "smmd",
    ) -> None:
        check_positive(channels=channels, width=width, out_dim=out_dim)
        check_choice("spectral", spectral, SpectralName)
        check_multiple_of_32(image_size)
        layers: list[nn.Module] = [
            *same_conv(channels, width, kernel_size=3),
            nn.LeakyReLU(LEAKY_SLOPE),
            *(
                ResidualBlock(inputs, 2 * inputs, "down")
                for inputs in (width, 2 * width, 4 * width, 8 * width)
            ),
            *([] if image_size == 64 else [ResidualBlock(16 * width, 16 * width)]),
            nn.LeakyReLU(LEAKY_SLOPE),
            SumPool(),
            nn.Linear(16 * width, out_dim),
        ]

        super().__init__(nn.Sequential(*layers), image_shape=(channels, image_size, image_size))
        initialize_smmd_weights(self, init, LEAKY_SLOPE, glorot_in=ResidualBlock)
        if spectral != "none":
            spectral_norm(self, spectral)
