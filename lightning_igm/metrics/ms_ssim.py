"""Multi-scale structural similarity, as the literature of generative models uses it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_igm.checks import above_zero

__all__ = ["ms_ssim"]

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5


@torch.no_grad()
def ms_ssim(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """Multi-scale structural similarity of pairs of images, 1 for equal ones.

    "Multi-scale structural similarity for image quality assessment" (Wang, Simoncelli and Bovik,
    2003) with the window that the literature of generative models gives to small images, since
    "Conditional Image Synthesis with Auxiliary Classifier GANs" (Odena, Olah and Shlens, 2017,
    https://arxiv.org/abs/1610.09585): at every one of the five scales it is
    ``n = min(11, H, W)`` wide, with a standard deviation of ``1.5 n / 11``. Of one pair it is that
    of the TensorFlow models' ``research/compression/image_encoder/msssim.py``. Averaged over many
    pairs of samples it measures how alike they are: compare it with that of real images, and never
    with values of another variant (torchmetrics' has another window and other scales).

    Per pair, with C1 = (0.01 range)^2 and C2 = (0.03 range)^2, and 2x2 averages between scales, in
    which an odd last row or column is averaged with its own mirror image (28 pixels become 14, 7, 4
    and 2)::

        cs = mean (2 s_xy + C2) / (s_x^2 + s_y^2 + C2)
        ss = mean (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1) * (2 s_xy + C2) / (s_x^2 + s_y^2 + C2)
        cs_1^.0448 cs_2^.2856 cs_3^.3001 cs_4^.2363 ss_5^.1333

    where the means are over positions and channels, and negative ones count as 0. Of a scale of one
    pixel cs is 1.

    Args:
        a: ``(N, C, H, W)``, floats or uint8, of any size.
        b: The same shape: a_i is compared with b_i.
        data_range: Difference between white and black: 255, 1 or 2.

    Returns:
        ``(N,)``, float64 for float64 images and float32 otherwise.

    Raises:
        ValueError: The shapes do not match, or there are no pixels.

    Example:
        >>> import torch
        >>> white = torch.full((1, 3, 32, 32), 255.0)
        >>> ms_ssim(white, white, data_range=255), ms_ssim(white, 0 * white, data_range=255)
        (tensor([1.]), tensor([0.2930]))
    """
    above_zero("data_range", data_range)
    if a.dim() != 4 or a.shape != b.shape or 0 in a.shape[1:]:
        raise ValueError(
            f"a, b: shapes {tuple(a.shape)} and {tuple(b.shape)} are not allowed; they must be one "
            "(N, C, H, W), with pixels"
        )
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    a, b = a.to(dtype), b.to(dtype)
    value = a.new_ones(len(a))
    for scale, exponent in enumerate(_EXPONENTS):
        if scale:
            # The mean of what is there of an odd last row is its mean with its mirror image.
            a, b = (F.avg_pool2d(images, 2, ceil_mode=True) for images in (a, b))
        luminance, contrast = _terms(a, b, data_range)
        last = scale == len(_EXPONENTS) - 1
        term = (luminance * contrast if last else contrast).mean((1, 2, 3))
        value = value * term.clamp_min(0) ** exponent
    return value


def _terms(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure ``(N, C, H', W')`` at every position."""
    n = min(_WINDOW, *a.shape[2:])
    positions = torch.arange(n, dtype=a.dtype, device=a.device) - (n - 1) / 2
    window = (-0.5 * (positions / (_SIGMA * n / _WINDOW)).square()).exp()
    window = window / window.sum()

    def blur(images: Tensor) -> Tensor:
        flat = images.flatten(0, 1)[:, None]
        blurred = F.conv2d(F.conv2d(flat, window.view(1, 1, n, 1)), window.view(1, 1, 1, n))
        unflat: Tensor = blurred.unflatten(0, images.shape[:2]).squeeze(2)
        return unflat

    # Means are subtracted before squares are taken: in float32 the difference of two large
    # averages would have few digits left.
    offset = torch.stack([a, b]).mean((0, 2, 3, 4), keepdim=True)[0]
    a, b = a - offset, b - offset
    mean_a, mean_b = blur(a), blur(b)
    squares = blur(a.square() + b.square()) - mean_a.square() - mean_b.square()
    product = blur(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + offset, mean_b + offset
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance, (2 * product + c2) / (squares + c2)
