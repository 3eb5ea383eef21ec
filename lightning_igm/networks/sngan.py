"""The generator and the critic of the Scaled MMD GAN for CIFAR-10."""

from torch import nn

from lightning_igm.networks._checks import check_choice, check_positive
from lightning_igm.networks._same import same_conv, same_deconv
from lightning_igm.networks.base import (
    LEAKY_SLOPE,
    OutputName,
    SequentialCritic,
    SequentialGenerator,
)
from lightning_igm.networks.init import SMMDInitName, initialize_smmd_weights
from lightning_igm.networks.spectral import SpectralName, spectral_norm

__all__ = ["SNGANCritic", "SNGANGenerator"]


class SNGANGenerator(SequentialGenerator):
    """Generator with three doublings, for images of 32 pixels and their like.

    The CIFAR-10 generator of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski
    and Gretton, 2018, https://arxiv.org/abs/1805.11565), after "Spectral Normalization for
    Generative Adversarial Networks" (Miyato, Kataoka, Koyama and Yoshida, 2018,
    https://arxiv.org/abs/1802.05957)::

        layer                                            output
        -----------------------------------------------  ----------
        latent                                           128
        Linear, BatchNorm2d, ReLU                        4x4x512
        ConvTranspose2d 5x5 stride 2, BatchNorm2d, ReLU  8x8x256
        ConvTranspose2d 5x5 stride 2, BatchNorm2d, ReLU  16x16x128
        ConvTranspose2d 5x5 stride 2, BatchNorm2d, ReLU  32x32x64
        ConvTranspose2d 3x3, output                      32x32x3
        parameters                                       5,361,667

    Every layer has a bias. Padding is TensorFlow's "SAME": the full output of a 5x5 layer, of size
    2 n + 3, loses one row and column before and two after.

    Args:
        latent_dim: Length of a latent vector.
        image_size: Height and width of the images, a multiple of 8.
        channels: Channels of the images.
        width: Channels of the last map; they double at each smaller map.
        output: ``"sigmoid"`` for pixels in [0, 1], ``"tanh"`` for pixels in [-1, 1], or
            ``"linear"``.
        init: ``"smmd"`` for the released code's
            (:func:`~lightning_igm.networks.init.initialize_smmd_weights`), or a name of
            :func:`~lightning_igm.networks.initialize_weights`.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import SNGANGenerator
        >>> generator = SNGANGenerator(latent_dim=128, image_size=32, width=16)
        >>> generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_size: int = 32,
        channels: int = 3,
        width: int = 64,
        output: OutputName = "sigmoid",
        init: SMMDInitName = "smmd",
    ) -> None:
        check_positive(latent_dim=latent_dim, channels=channels, width=width)
        start = _start_size(image_size)

        layers: list[nn.Module] = [
            nn.Linear(latent_dim, 8 * width * start**2),
            nn.Unflatten(1, (8 * width, start, start)),
            nn.BatchNorm2d(8 * width),
            nn.ReLU(),
        ]
        for inputs in (8 * width, 4 * width, 2 * width):
            layers += [
                *same_deconv(inputs, inputs // 2, kernel_size=5, stride=2),
                nn.BatchNorm2d(inputs // 2),
                nn.ReLU(),
            ]
        layers += same_deconv(width, channels, kernel_size=3)

        super().__init__(layers, latent_dim, (channels, image_size, image_size), output)
        initialize_smmd_weights(self, init)


class SNGANCritic(SequentialCritic):
    """Seven convolutions and a linear layer, for images of 32 pixels and their like.

    The CIFAR-10 critic of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and
    Gretton, 2018, https://arxiv.org/abs/1805.11565), after "Spectral Normalization for Generative
    Adversarial Networks" (Miyato, Kataoka, Koyama and Yoshida, 2018,
    https://arxiv.org/abs/1802.05957)::

        layer                           output
        ------------------------------  ----------
        image                           32x32x3
        Conv2d 3x3, LeakyReLU           32x32x64
        Conv2d 4x4 stride 2, LeakyReLU  16x16x128
        Conv2d 3x3, LeakyReLU           16x16x128
        Conv2d 4x4 stride 2, LeakyReLU  8x8x256
        Conv2d 3x3, LeakyReLU           8x8x256
        Conv2d 4x4 stride 2, LeakyReLU  4x4x512
        Conv2d 3x3, LeakyReLU           4x4x512
        Linear                          1
        parameters                      5,860,865

    Every layer has a bias, none has batch norm. A learnable spectral parametrization adds 8 scales.

    Args:
        image_size: Height and width of the images, a multiple of 8.
        channels: Channels of the images.
        width: Channels of the first map; they double at each smaller map.
        out_dim: Outputs for each image, the D features that a kernel compares.
        spectral: Spectral parametrization of all weights: ``"none"``, ``"learnable"`` with a scale
            for each layer, ``"fixed"`` with scales of 1
            (:func:`~lightning_igm.networks.spectral_norm`).
        init: ``"smmd"`` for the released code's, with N(0, 0.02) for the linear layer
            (:func:`~lightning_igm.networks.init.initialize_smmd_weights`), or a name of
            :func:`~lightning_igm.networks.initialize_weights`.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import SNGANCritic
        >>> critic = SNGANCritic(image_size=32, width=16, spectral="learnable")
        >>> critic(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2])
        >>> SNGANCritic(image_size=32, width=16, out_dim=4)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 64,
        out_dim: int = 1,
        spectral: SpectralName = "none",
        init: SMMDInitName = "smmd",
    ) -> None:
        check_positive(channels=channels, width=width, out_dim=out_dim)
        check_choice("spectral", spectral, SpectralName)
        final_size = _start_size(image_size)

        layers: list[nn.Module] = [
            *same_conv(channels, width, kernel_size=3),
            nn.LeakyReLU(LEAKY_SLOPE),
        ]
        for inputs in (width, 2 * width, 4 * width):
            layers += [
                *same_conv(inputs, 2 * inputs, kernel_size=4, stride=2),
                nn.LeakyReLU(LEAKY_SLOPE),
                *same_conv(2 * inputs, 2 * inputs, kernel_size=3),
                nn.LeakyReLU(LEAKY_SLOPE),
            ]
        layers += [nn.Flatten(), nn.Linear(8 * width * final_size**2, out_dim)]

        super().__init__(nn.Sequential(*layers), image_shape=(channels, image_size, image_size))
        initialize_smmd_weights(self, init, LEAKY_SLOPE, linear_std=0.02)
        if spectral != "none":
            spectral_norm(self, spectral)


def _start_size(image_size: int) -> int:
    """Size of the smallest map."""
    if image_size < 8 or image_size % 8:
        raise ValueError(f"image_size={image_size!r}: allowed are multiples of 8")
    return image_size // 8
