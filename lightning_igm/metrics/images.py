"""The one way from float images to 8 bits, shared by scores, sample grids and loggers."""

import torch
from torch import Tensor

__all__ = ["to_uint8"]


def to_uint8(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Quantise float images to 8 bits: clamp, scale, round.

    Values outside the range are clamped, never wrapped. NaN becomes 0 (black).

    Args:
        images: Float images of any shape, e.g. ``(N, C, H, W)``.
        value_range: The values of black and of white.

    Returns:
        A uint8 tensor of the same shape and device.

    Raises:
        ValueError: If ``images`` are not floats or ``value_range`` is not increasing.

    Example:
        >>> import torch
        >>> to_uint8(torch.tensor([-1.2, -1.0, 0.0, 1.0]), (-1.0, 1.0))
        tensor([  0,   0, 128, 255], dtype=torch.uint8)
    """
    low, high = value_range
    if not high > low:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in {value_range}, got dtype {images.dtype}")
    # bfloat16 has too few digits for 256 levels after the scaling.
    unit = (images.detach().float() - low) / (high - low)
    return unit.nan_to_num(nan=0.0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
