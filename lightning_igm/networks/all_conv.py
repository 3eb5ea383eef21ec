"""Convolutional critics with a single linear layer on top."""

from torch import nn

from lightning_igm.networks._checks import check_positive
from lightning_igm.networks.base import LEAKY_SLOPE, SequentialCritic
from lightning_igm.networks.init import InitName, initialize_weights

__all__ = ["AllConvCritic", "HiddenMomentCritic"]


class AllConvCritic(SequentialCritic):
    """Nine convolutions and a linear layer: the CIFAR-10 critic of the Method of Learned Moments.

    "Learning Implicit Generative Models with Method of Learned Moments" (Ravuri, Mohamed, Rosca,
    Vinyals, NIPS 2017 deep-learning workshop; later version: https://arxiv.org/abs/1806.11006)
    takes the larger semi-supervised discriminator of "Fisher GAN" (Mroueh, Sercu, 2017,
    https://arxiv.org/abs/1705.09675, appendix F.4) and makes its kernels 4x4::

        #     layer                    stride  padding  output
        ----  -----------------------  ------  -------  ---------------------
        1, 2  Conv2d 4x4, LeakyReLU    1       same     32x32x96
        3     Conv2d 4x4, LeakyReLU    2       same     16x16x96
        4, 5  Conv2d 4x4, LeakyReLU    1       same     16x16x192
        6     Conv2d 4x4, LeakyReLU    2       same     8x8x192
        7, 8  Conv2d 4x4, LeakyReLU    1       none     5x5x384, 2x2x384
        9     Conv2d 1x1, LeakyReLU    1       none     2x2x384
              Linear                                    1

    5,464,033 parameters; every layer has a bias, none has batch norm or dropout. The papers do not
    state the padding. An even kernel at stride 1 keeps the size only with one zero more on the
    right and at the bottom, which is a layer of its own here (``ZeroPad2d``).

    Args:
        image_size: Height and width of the images: a multiple of 4 from 28, or from 4 with
            ``same_padding_everywhere``.
        channels: Channels of the images.
        width: Channels of the first three convolutions; the next have 2 and 4 times as many.
        same_padding_everywhere: Whether layers 7 and 8 keep their 8x8 maps too (5,487,073
            parameters).
        init: ``"normal"`` for weights from N(0, 0.02), ``"he"``, or ``"default"`` for PyTorch's own
            (:func:`~lightning_igm.networks.initialize_weights`).

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import AllConvCritic
        >>> critic = AllConvCritic(image_size=32, width=8)
        >>> critic(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 96,
        same_padding_everywhere: bool = False,
        init: InitName = "normal",
    ) -> None:
        check_positive(channels=channels, width=width)
        smallest = 4 if same_padding_everywhere else 28
        if image_size < smallest or image_size % 4:
            raise ValueError(
                f"image_size={image_size!r}: allowed are multiples of 4 from {smallest}"
            )
        same = same_padding_everywhere
        final_size = image_size // 4 if same else image_size // 4 - 6

        layers = nn.Sequential(
            *_conv4x4(channels, width),
            *_conv4x4(width, width),
            *_conv4x4(width, width, stride=2),
            *_conv4x4(width, 2 * width),
            *_conv4x4(2 * width, 2 * width),
            *_conv4x4(2 * width, 2 * width, stride=2),
            *_conv4x4(2 * width, 4 * width, same=same),
            *_conv4x4(4 * width, 4 * width, same=same),
            nn.Conv2d(4 * width, 4 * width, kernel_size=1),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Flatten(),
            nn.Linear(4 * width * final_size**2, 1),
        )

        super().__init__(layers, image_shape=(channels, image_size, image_size))
        initialize_weights(self, init, LEAKY_SLOPE)


class HiddenMomentCritic(SequentialCritic):
    """Six 3x3 convolutions and a linear layer, for moments of hidden units on CIFAR-10.

    For the variant of "Learning Implicit Generative Models with the Method of Learned Moments"
    (Ravuri, Mohamed, Rosca, Vinyals, ICML 2018, https://arxiv.org/abs/1806.11006) whose moments
    are also the outputs of the leaky ReLUs. The paper does not list its networks; this is the layer
    plan of the reimplementation https://github.com/cibeah/molm::

        layer                          width W        W = 512
        -----------------------------  -------------  -------------
        Conv2d stride 1, LeakyReLU     32x32xW/4      32x32x128
        Conv2d stride 2, LeakyReLU     16x16xW/4      16x16x128
        Conv2d stride 1, LeakyReLU     16x16xW/2      16x16x256
        Conv2d stride 2, LeakyReLU     8x8xW/2        8x8x256
        Conv2d stride 1, LeakyReLU     8x8xW          8x8x512
        Conv2d stride 2, LeakyReLU     4x4xW          4x4x512
        Linear                         1              1
        hidden units                   560 W          286,720
        parameters                                    4,584,577

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        width: Channels of the last two convolutions, a multiple of 4.
        init: ``"normal"`` for weights from N(0, 0.02), ``"he"``, or ``"default"`` for PyTorch's own
            (:func:`~lightning_igm.networks.initialize_weights`).

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import HiddenMomentCritic
        >>> critic = HiddenMomentCritic(image_size=32, width=16)
        >>> critic(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 512,
        init: InitName = "normal",
    ) -> None:
        check_positive(image_size=image_size, channels=channels)
        if width < 4 or width % 4:
            raise ValueError(f"width={width!r}: allowed are multiples of 4")
        final_size = (image_size + 7) // 8  # each stride 2 rounds up

        layers = nn.Sequential(
            *_conv3x3(channels, width // 4),
            *_conv3x3(width // 4, width // 4, stride=2),
            *_conv3x3(width // 4, width // 2),
            *_conv3x3(width // 2, width // 2, stride=2),
            *_conv3x3(width // 2, width),
            *_conv3x3(width, width, stride=2),
            nn.Flatten(),
            nn.Linear(width * final_size**2, 1),
        )

        super().__init__(layers, image_shape=(channels, image_size, image_size))
        initialize_weights(self, init, LEAKY_SLOPE)


def _conv4x4(
    in_channels: int, out_channels: int, stride: int = 1, same: bool = True
) -> list[nn.Module]:
    """4x4 convolution and leaky ReLU; ``same`` divides the size by the stride and no more."""
    # At stride 2 the three zeros "same" needs at stride 1 are only two, hence symmetric.
    asymmetric = same and stride == 1
    padding = 1 if same and stride == 2 else 0
    return [
        *([nn.ZeroPad2d((1, 2, 1, 2))] if asymmetric else []),
        nn.Conv2d(in_channels, out_channels, 4, stride, padding),
        nn.LeakyReLU(LEAKY_SLOPE),
    ]


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1),
        nn.LeakyReLU(LEAKY_SLOPE),
    ]
