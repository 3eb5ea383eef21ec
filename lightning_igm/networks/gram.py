"""The batch-normalised convolutional networks of GRAM-nets and of the first MMD GAN."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from lightning_igm.networks._checks import check_choice, check_positive
from lightning_igm.networks._same import same_conv, same_deconv
from lightning_igm.networks.base import (
    LEAKY_SLOPE,
    OutputName,
    SequentialCritic,
    SequentialGenerator,
)
from lightning_igm.networks.batch_norm import BatchShift
from lightning_igm.networks.init import initialize_smmd_weights, initialize_weights

__all__ = ["BatchShift", "GRAMCritic", "GRAMGenerator", "PoolingCritic", "VariantName"]

VariantName = Literal["pytorch", "tensorflow", "julia"]


class GRAMGenerator(SequentialGenerator):
    """Generator with batch norm at every map: the small DCGANs of moment and ratio matching.

    Of "Generative Ratio Matching Networks" (Srivastava, Xu, Gutmann and Sutton, 2020,
    https://openreview.net/forum?id=SJg7spEYDS) there are three released codes, and as many ways to
    build a DCGAN. That of "MMD GAN: Towards Deeper Understanding of Moment Matching Network" (Li,
    Chang, Cheng, Yang and Póczos, 2017, https://arxiv.org/abs/1705.08584) is the first::

        variant                  pytorch                      tensorflow         julia
        -----------------------  ---------------------------  -----------------  ----------------
        Linear to 4x4            no bias                      bias               bias
        batch norm               scale, offset                BatchShift         scale, offset
        activation               ReLU                         ReLU               LeakyReLU 0.2
        ConvTranspose2d          no bias                      bias               no bias
        weights                  N(0, 0.02), scales           N(0, 0.02)         Glorot's, uniform
                                 N(1, 0.02)
        images                   CelebA        CIFAR-10 [1]   CIFAR-10           CIFAR-10
        kernel_size, width       4, 64         4, 64          5 or 4, 32         4, 32
        latent_dim               100           128            128                100
        output                   tanh          tanh           tanh               sigmoid
        parameters               3,576,704     1,183,616      522,915 (429,891)  372,672

    [1] of MMD GAN; its MNIST of 32 pixels has latent_dim 10, channels 1 and 698,240 parameters, its
    CelebA latent_dim 64 and 3,281,792. All convolutions have stride 2 and TensorFlow's padding
    "SAME", which for 4x4 kernels is a padding of 1.

    Args:
        latent_dim: Length of a latent vector.
        image_size: Height and width of the images: a power of two from 8.
        channels: Channels of the images.
        width: Channels of the map at half the image's size, doubling at each smaller map; or those
            of every map, from the largest to the 4x4 one.
        kernel_size: 4 or 5.
        output: ``"sigmoid"`` for pixels in [0, 1], ``"tanh"`` for pixels in [-1, 1], or
            ``"linear"``.
        variant: A column of the table.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import GRAMGenerator
        >>> generator = GRAMGenerator(latent_dim=128, image_size=32, width=32)
        >>> generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_size: int = 32,
        channels: int = 3,
        width: int | Sequence[int] = 64,
        kernel_size: int = 4,
        output: OutputName = "tanh",
        variant: VariantName = "pytorch",
    ) -> None:
        check_positive(latent_dim=latent_dim, channels=channels)
        widths = _widths(image_size, width, kernel_size, variant)[::-1]
        bias = variant == "tensorflow"

        def normalised(maps: int) -> list[nn.Module]:
            activation = nn.LeakyReLU(LEAKY_SLOPE) if variant == "julia" else nn.ReLU()
            return [_norm(maps, variant), activation]

        layers: list[nn.Module] = [
            nn.Linear(latent_dim, 4 * 4 * widths[0], bias=variant != "pytorch"),
            nn.Unflatten(1, (widths[0], 4, 4)),
            *normalised(widths[0]),
        ]
        for inputs, outputs in pairwise(widths):
            layers += same_deconv(inputs, outputs, kernel_size, stride=2, bias=bias)
            layers += normalised(outputs)
        layers += same_deconv(widths[-1], channels, kernel_size, stride=2, bias=bias)

        super().__init__(layers, latent_dim, (channels, image_size, image_size), output)
        _initialize(self, variant)


class GRAMCritic(SequentialCritic):
    """Critic or projector with batch norm at every map but the first.

    The mirror image of :class:`GRAMGenerator`, with leaky ReLUs of slope 0.2 in every variant::

        variant                  pytorch                      tensorflow         julia
        -----------------------  ---------------------------  -----------------  ----------------
        Conv2d                   no bias                      bias               no bias
        Linear                   bias          no bias [1]    bias               bias
        images                   CelebA        CIFAR-10       CIFAR-10           CIFAR-10
        kernel_size, width       4, 64         4, 64          5 or 4, 32         4, 32
        out_dim                  200           128            128                200
        parameters               4,395,976     1,183,488      521,088 (428,064)  575,560

    [1] the encoder of MMD GAN; that of MNIST (32 pixels, channels 1, out_dim 10) has 698,112
    parameters and that of CelebA (out_dim 64) 3,281,664. The first column with out_dim 1 is
    DCGAN's critic, 2,765,569. A thinner projector of the tensorflow column, ``width: [32, 32,
    64]``, has 210,624 parameters (182,112 with 4x4 kernels).

    Args:
        image_size: Height and width of the images: a power of two from 8.
        channels: Channels of the images.
        width: Channels of the map at half the image's size, doubling at each smaller map; or those
            of every map, from the largest to the 4x4 one.
        out_dim: Outputs for each image, the features that a kernel compares.
        kernel_size: 4 or 5.
        output_bias: Whether the linear layer has a bias.
        variant: A column of the table.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import GRAMCritic
        >>> GRAMCritic(image_size=32, width=32, out_dim=128)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int | Sequence[int] = 64,
        out_dim: int = 1,
        kernel_size: int = 4,
        output_bias: bool = True,
        variant: VariantName = "pytorch",
    ) -> None:
        check_positive(channels=channels, out_dim=out_dim)
        widths = _widths(image_size, width, kernel_size, variant)
        bias = variant == "tensorflow"

        layers = [
            *same_conv(channels, widths[0], kernel_size, stride=2, bias=bias),
            nn.LeakyReLU(LEAKY_SLOPE),
        ]
        for inputs, outputs in pairwise(widths):
            layers += [
                *same_conv(inputs, outputs, kernel_size, stride=2, bias=bias),
                _norm(outputs, variant),
                nn.LeakyReLU(LEAKY_SLOPE),
            ]
        linear = nn.Linear(4 * 4 * widths[-1], out_dim, bias=output_bias)
        layers += [nn.Flatten(), linear]

        super().__init__(nn.Sequential(*layers), image_shape=(channels, image_size, image_size))
        _initialize(self, variant)
        if variant == "pytorch" and output_bias:
            # The released code initialises convolutions, and this layer is none there.
            linear.reset_parameters()


class PoolingCritic(SequentialCritic):
    """Projector of convolutions and max-pooling, for MNIST.

    The projector of "Generative Ratio Matching Networks" (Srivastava, Xu, Gutmann and Sutton, 2020,
    https://openreview.net/forum?id=SJg7spEYDS) for MNIST, of 43,108 parameters::

        layer                                        output
        -------------------------------------------  --------
        image                                        28x28x1
        Conv2d 3x3, BatchNorm2d, ReLU, MaxPool2d     14x14x16
        Conv2d 3x3, BatchNorm2d, ReLU, MaxPool2d     7x7x32
        Conv2d 3x3, BatchNorm2d, ReLU, MaxPool2d     3x3x32
        Linear                                       100

    Weights are Glorot's and biases 0.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        widths: Channels of the maps.
        out_dim: Outputs for each image, the features that a kernel compares.
        bias: Whether convolutions have a bias (43,028 parameters without).

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import PoolingCritic
        >>> PoolingCritic(out_dim=100)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 100])
    """

    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 32),
        out_dim: int = 100,
        bias: bool = True,
    ) -> None:
        check_positive(channels=channels, out_dim=out_dim)
        check_positive(**{f"widths[{i}]": width for i, width in enumerate(widths)})
        final_size = image_size // 2 ** len(widths)
        if not widths or final_size < 1:
            raise ValueError(
                f"widths={list(widths)!r}: must be one or more, and leave a map of image_size="
                f"{image_size} halved as often"
            )
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([channels, *widths]):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        layers += [nn.Flatten(), nn.Linear(final_size**2 * widths[-1], out_dim)]
        super().__init__(nn.Sequential(*layers), image_shape=(channels, image_size, image_size))
        _glorot(self)


def _widths(
    image_size: int, width: int | Sequence[int], kernel_size: int, variant: str
) -> list[int]:
    """Channels of the maps between image and 4x4, from the largest map to the 4x4 map."""
    check_choice("variant", variant, VariantName)
    if kernel_size not in (4, 5):
        raise ValueError(f"kernel_size={kernel_size!r}: allowed are 4, 5")
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(f"image_size={image_size!r}: allowed are powers of two from 8")
    levels = image_size.bit_length() - 3
    widths = [width * 2**level for level in range(levels)] if isinstance(width, int) else [*width]
    if len(widths) != levels:
        raise ValueError(
            f"width={width!r}: must be a number, or {levels} of them for image_size={image_size}"
        )
    check_positive(width=min(widths))
    return widths


def _norm(channels: int, variant: str) -> nn.Module:
    return BatchShift(channels) if variant == "tensorflow" else nn.BatchNorm2d(channels)


def _initialize(network: nn.Module, variant: str) -> None:
    if variant == "julia":
        _glorot(network)
    elif variant == "tensorflow":
        initialize_smmd_weights(network, linear_std=0.02)
    else:
        initialize_weights(network, "normal")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)


def _glorot(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
