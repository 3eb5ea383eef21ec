"""DCGAN's convolutional generator and its mirror image, the critic."""

from torch import nn

from lightning_igm.networks._checks import check_choice, check_positive
from lightning_igm.networks.base import (
    LEAKY_SLOPE,
    OutputName,
    SequentialCritic,
    SequentialGenerator,
)
from lightning_igm.networks.init import InitName, initialize_weights
from lightning_igm.networks.spectral import SpectralName, spectral_norm

__all__ = ["DCGANCritic", "DCGANGenerator"]


class DCGANGenerator(SequentialGenerator):
    """Generator that doubles a 4x4 map until it has the size of the image.

    Architecture of "Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks" (Radford, Metz, Chintala, 2015, https://arxiv.org/abs/1511.06434), with
    the sizes of Table 1 of "Learning Implicit Generative Models with Method of Learned Moments"
    (Ravuri, Mohamed, Rosca, Vinyals, NIPS 2017 deep-learning workshop; later version:
    https://arxiv.org/abs/1806.11006)::

        layer                               Color MNIST    CIFAR-10      CelebA
        ----------------------------------  -------------  ------------  -------------
        latent                              128            128           256
        Linear, ReLU                        4x4x256        4x4x512       4x4x1024
        ConvTranspose2d, BatchNorm2d, ReLU  8x8x128        8x8x256       8x8x512
        ConvTranspose2d, BatchNorm2d, ReLU  16x16x64       16x16x128     16x16x256
        ConvTranspose2d, BatchNorm2d, ReLU                               32x32x128
        ConvTranspose2d, output             32x32x3        32x32x3       64x64x3
        kernel_size, output                 5, sigmoid     4, tanh       5, tanh
        width                               64             128           128
        parameters                          1,557,571      3,685,123     21,425,283

    The projection and the last layer have a bias and no batch norm. The layers between have batch
    norm and no bias. Table 1 prints 20,615,427 parameters for CelebA; ``stride4=True`` has them.

    Args:
        latent_dim: Length of a latent vector.
        image_size: Height and width of the images: a power of two from 8, or 28 (4-7-14-28).
        channels: Channels of the images.
        width: Channels of the map at half the image's size; they double at each smaller map.
        kernel_size: 4 or 5; 28-pixel images need 5.
        output: ``"sigmoid"`` for pixels in [0, 1], ``"tanh"`` for pixels in [-1, 1], or
            ``"linear"``.
        batch_norm: Whether hidden layers have batch norm; without it they have a bias.
        stride4: Leave out the map at half the image's size; the last layer has stride 4 instead.
        init: ``"normal"`` for weights from N(0, 0.02), ``"he"``, or ``"default"`` for PyTorch's own
            (:func:`~lightning_igm.networks.initialize_weights`).

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import DCGANGenerator
        >>> generator = DCGANGenerator(latent_dim=128, image_size=32, width=64)
        >>> generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 32, 32])
        >>> generator.value_range
        (0.0, 1.0)
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_size: int = 32,
        channels: int = 3,
        width: int = 64,
        kernel_size: int = 5,
        output: OutputName = "sigmoid",
        batch_norm: bool = True,
        stride4: bool = False,
        init: InitName = "normal",
    ) -> None:
        check_positive(latent_dim=latent_dim, channels=channels, width=width)
        widths = _widths(image_size, width, kernel_size, stride4)[::-1]

        layers: list[nn.Module] = [
            nn.Linear(latent_dim, 4 * 4 * widths[0]),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], 4, 4)),
        ]
        for level in range(len(widths) - 1):
            layers += [
                _upsample(
                    widths[level],
                    widths[level + 1],
                    kernel_size,
                    bias=not batch_norm,
                    cropped=image_size == 28 and level == 0,
                ),
                *([nn.BatchNorm2d(widths[level + 1])] if batch_norm else []),
                nn.ReLU(),
            ]
        layers += [_upsample(widths[-1], channels, kernel_size, stride=4 if stride4 else 2)]

        super().__init__(layers, latent_dim, (channels, image_size, image_size), output)
        initialize_weights(self, init)


class DCGANCritic(SequentialCritic):
    """Mirror image of :class:`DCGANGenerator`, without batch norm.

    The critics ("discriminators") of "Learning Implicit Generative Models with Method of Learned
    Moments" (Ravuri, Mohamed, Rosca, Vinyals, NIPS 2017 deep-learning workshop; later version:
    https://arxiv.org/abs/1806.11006), after DCGAN (https://arxiv.org/abs/1511.06434)::

        layer                          Color MNIST    CelebA
        -----------------------------  -------------  -------------
        image                          32x32x3        64x64x3
        Conv2d stride 2, LeakyReLU                    32x32x128
        Conv2d stride 2, LeakyReLU     16x16x64       16x16x256
        Conv2d stride 2, LeakyReLU     8x8x128        8x8x512
        Conv2d stride 2, LeakyReLU     4x4x256        4x4x1024
        Linear, LeakyReLU              128            256
        Linear                         1              1
        width, hidden_dim              64, 128        128, 256
        parameters                     1,553,793      21,409,537

    Every layer has a bias. Nothing couples the images of a batch and nothing works in place, so
    per-image gradients with respect to the parameters are well defined.

    Args:
        image_size: Height and width of the images: a power of two from 8, or 28 (28-14-7-4).
        channels: Channels of the images.
        width: Channels of the map at half the image's size; they double at each smaller map.
        hidden_dim: Size of the first linear layer; None for a single linear layer, as in DCGAN.
        kernel_size: 4 or 5; 28-pixel images need 5.
        stride4: Leave out the map at half the image's size; the first layer has stride 4 instead
            (20,599,809 parameters for CelebA).
        init: ``"normal"`` for weights from N(0, 0.02), ``"he"``, or ``"default"`` for PyTorch's own
            (:func:`~lightning_igm.networks.initialize_weights`).
        out_dim: Outputs for each image, the D features that a kernel compares.
        spectral: Spectral parametrization of all weights: ``"none"``, ``"learnable"`` with a scale
            for each layer, ``"fixed"`` with scales of 1
            (:func:`~lightning_igm.networks.spectral_norm`).

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import DCGANCritic
        >>> critic = DCGANCritic(image_size=32, width=64, hidden_dim=128)
        >>> critic(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 64,
        hidden_dim: int | None = 128,
        kernel_size: int = 5,
        stride4: bool = False,
        init: InitName = "normal",
        out_dim: int = 1,
        spectral: SpectralName = "none",
    ) -> None:
        check_positive(channels=channels, width=width, out_dim=out_dim)
        check_choice("spectral", spectral, SpectralName)
        widths = [channels, *_widths(image_size, width, kernel_size, stride4)]

        layers: list[nn.Module] = []
        for level in range(len(widths) - 1):
            stride = 4 if stride4 and level == 0 else 2
            layers += [
                nn.Conv2d(
                    widths[level],
                    widths[level + 1],
                    kernel_size,
                    stride,
                    padding=_padding(kernel_size, stride),
                ),
                nn.LeakyReLU(LEAKY_SLOPE),
            ]
        layers += [nn.Flatten()]
        features = 4 * 4 * widths[-1]
        if hidden_dim is None:
            layers += [nn.Linear(features, out_dim)]
        else:
            check_positive(hidden_dim=hidden_dim)
            layers += [
                nn.Linear(features, hidden_dim),
                nn.LeakyReLU(LEAKY_SLOPE),
                nn.Linear(hidden_dim, out_dim),
            ]

        super().__init__(nn.Sequential(*layers), image_shape=(channels, image_size, image_size))
        initialize_weights(self, init, LEAKY_SLOPE)
        if spectral != "none":
            spectral_norm(self, spectral)


def _widths(image_size: int, width: int, kernel_size: int, stride4: bool) -> list[int]:
    """Channels of the maps between image and 4x4, from the largest map to the 4x4 map."""
    if kernel_size not in (4, 5):
        raise ValueError(f"kernel_size={kernel_size!r}: allowed are 4, 5")
    if image_size != 28 and (image_size < 8 or image_size & (image_size - 1)):
        raise ValueError(f"image_size={image_size!r}: allowed are 28 and powers of two from 8")
    if image_size == 28 and kernel_size != 5:
        raise ValueError(f"kernel_size={kernel_size!r}: must be 5 for image_size=28")
    if image_size == 8 and stride4:
        raise ValueError("stride4=True: image_size=8 must be at least 16")
    levels = (image_size - 1).bit_length() - 2  # maps 4, 8, ... below the image; 28 counts as 32
    return [width * 2**level for level in range(int(stride4), levels)]


def _padding(kernel_size: int, stride: int) -> int:
    # With this a convolution divides the size by the stride: 2 and 1 for kernels 5 and 4 at
    # stride 2, 1 and 0 at stride 4.
    return (kernel_size - stride + 1) // 2


def _upsample(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 2,
    bias: bool = True,
    cropped: bool = False,
) -> nn.ConvTranspose2d:
    """Multiply the size by the stride; ``cropped`` leaves out the last row and column (4 to 7)."""
    padding = _padding(kernel_size, stride)
    output_padding = stride - kernel_size + 2 * padding - int(cropped)
    return nn.ConvTranspose2d(
        in_channels, out_channels, kernel_size, stride, padding, output_padding, bias=bias
    )
