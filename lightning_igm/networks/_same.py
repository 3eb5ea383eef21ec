"""Convolutions padded as TensorFlow's "SAME": what does not halve goes right and below.

For a size that is a multiple of the stride, a convolution divides it by the stride, with
``kernel - stride`` zeros, half of them (rounded down) before and the rest after; a transposed
convolution multiplies it, and crops as much at the same places of its full output. PyTorch's own
``ConvTranspose2d(5, stride=2, padding=2, output_padding=1)`` is the mirror image.
"""

from torch import nn

__all__ = ["same_conv", "same_deconv"]


def same_conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True
) -> list[nn.Module]:
    """Convolution that divides the size by the stride; the padding is a layer if it must be."""
    before, after = _before_and_after(kernel_size, stride)
    if before == after:
        return [nn.Conv2d(in_channels, out_channels, kernel_size, stride, before, bias=bias)]
    return [
        nn.ZeroPad2d((before, after, before, after)),
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, bias=bias),
    ]


def same_deconv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True
) -> list[nn.Module]:
    """Transposed convolution that multiplies the size by the stride."""
    before, after = _before_and_after(kernel_size, stride)
    deconv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride, before, bias=bias)
    # Negative padding crops.
    extra = before - after
    return [deconv, nn.ZeroPad2d((0, extra, 0, extra))] if extra else [deconv]


def _before_and_after(kernel_size: int, stride: int) -> tuple[int, int]:
    total = kernel_size - stride
    return total // 2, total - total // 2
