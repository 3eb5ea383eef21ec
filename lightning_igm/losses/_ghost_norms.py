"""Squared norms of each image's gradient in a weight, two ways."""

from functools import reduce

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

__all__ = ["norms_by_gradient", "norms_by_gram"]


def norms_by_gradient(
    image: Tensor,
    delta: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Squared norm ``(N,)`` of each image's gradient in a convolution's weight.

    The images stand side by side as the groups of one convolution, each with a weight of its own.
    """
    n, channels = image.shape[:2]
    image, delta = (t.reshape(1, -1, *t.shape[2:]) for t in (image, delta))
    shape = (delta.shape[1], channels, *kernel)
    gradients: Tensor = conv2d_weight(image, shape, delta, stride, 0, dilation, groups=n)
    return gradients.view(n, -1).square().sum(1)


def norms_by_gram(
    image: Tensor,
    delta: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The same without forming the gradient.

    The gradient is a sum over positions of products of a delta and a patch, so that its squared
    norm is a sum over pairs of positions of <delta, delta'> <patch, patch'>. The inner product of
    two patches is that of their pixels, summed over the kernel's offsets, and at a stride only
    pixels with the same remainder meet.
    """
    height, width = delta.shape[2:]
    patches = []
    for top, downs in _offsets(kernel[0], stride[0], dilation[0]).items():
        for left, rights in _offsets(kernel[1], stride[1], dilation[1]).items():
            gram = _gram(image[:, :, top :: stride[0], left :: stride[1]])
            gram = _sum([gram[:, i : i + height, :, i : i + height] for i in downs])
            gram = _sum([gram[:, :, j : j + width, :, j : j + width] for j in rights])
            patches.append(gram)
    return (_sum(patches) * _gram(delta)).sum((1, 2, 3, 4))


def _offsets(size: int, stride: int, dilation: int) -> dict[int, list[int]]:
    """A kernel's offsets by their remainder on division by the stride: their quotients."""
    offsets: dict[int, list[int]] = {}
    for offset in range(0, size * dilation, dilation):
        offsets.setdefault(offset % stride, []).append(offset // stride)
    return offsets


def _gram(image: Tensor) -> Tensor:
    """Inner products ``(N, H, W, H, W)`` of all pairs of pixels of images ``(N, C, H, W)``."""
    pixels = image.flatten(2)
    return (pixels.mT @ pixels).view(-1, *image.shape[2:], *image.shape[2:])


def _sum(tensors: list[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)
