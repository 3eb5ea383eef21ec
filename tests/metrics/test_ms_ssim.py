"""MS-SSIM against printed values and a slow reference."""

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor

from lightning_igm.metrics import ms_ssim

Image = npt.NDArray[np.float64]

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def halved(image: Image) -> Image:
    """The literature's ``convolve(image, ones((1, 2, 2)) / 4, mode="reflect")[:, ::2, ::2]``.

    scipy's ``correlate`` sees x_(i-1) and x_i through a kernel of two, its origin being the second
    entry; ``convolve`` mirrors the kernel and its origin: x_i and x_(i+1), and past the end the
    last one again.
    """
    channels, height, width = image.shape
    half = np.empty((channels, -(-height // 2), -(-width // 2)))
    for c, i, j in product(range(channels), range(0, height, 2), range(0, width, 2)):
        rows, columns = (i, min(i + 1, height - 1)), (j, min(j + 1, width - 1))
        half[c, i // 2, j // 2] = sum(image[c, k, m] for k, m in product(rows, columns)) / 4
    return half


def reference(a: Image, b: Image, data_range: float) -> float:
    """One pair ``(C, H, W)``, window by window, with centred variances."""
    c1, c2, value = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, 1.0
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            a, b = halved(a), halved(b)
        n = min(11, *a.shape[1:])
        line = np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (1.5 * n / 11)) ** 2)
        window = np.outer(line, line) / line.sum() ** 2
        terms = []
        channels, height, width = a.shape
        for c, i, j in product(range(channels), range(height - n + 1), range(width - n + 1)):
            x, y = a[c, i : i + n, j : j + n], b[c, i : i + n, j : j + n]
            mx, my = (window * x).sum(), (window * y).sum()
            sx, sy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cs = (2 * (window * (x - mx) * (y - my)).sum() + c2) / (sx + sy + c2)
            ss = (2 * mx * my + c1) / (mx**2 + my**2 + c1) * cs
            terms.append(ss if scale == 4 else cs)
        value *= max(np.mean(terms), 0.0) ** exponent
    return float(value)


def pairs(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth images that are somewhat alike, in [0, 255]."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 3, 8, 8, generator=draw)
    coarse[1] = 0.5 * coarse[0] + 0.5 * coarse[1]
    images = torch.nn.functional.interpolate(coarse.flatten(0, 1), (height, width), mode="bilinear")
    noisy = 255 * (images + 0.05 * torch.randn(images.shape, generator=draw)).clamp(0, 1)
    a, b = noisy.unflatten(0, (2, 3))
    return a, b


@pytest.mark.parametrize("size", [32, 64, 128])
def test_flat_images(size: int) -> None:
    white = torch.full((1, 3, size, size), 255.0, dtype=torch.float64)
    assert float(ms_ssim(white, white, data_range=255)) == pytest.approx(1, abs=1e-12)
    assert float(ms_ssim(white * 0, white, data_range=255)) == pytest.approx(0.2929505, abs=1e-7)
    grey = float(ms_ssim(white * 0, white / 2, data_range=255))
    assert grey == pytest.approx(0.3523964, abs=1e-7)


def test_ramps() -> None:
    i, j = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    p = torch.stack([4 * i % 256, 4 * j % 256, 2 * (i + j) % 256])[None]
    q = torch.stack([4 * j % 256, 4 * i % 256, 2 * (2 * i + j) % 256])[None]
    for dtype in (torch.float32, torch.float64, torch.uint8):
        value = ms_ssim(p.to(dtype), q.to(dtype), data_range=255)
        assert float(value) == pytest.approx(0.1915455, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (6, 7), (7, 8)])
def test_the_reference_halves_as_scipy_does(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=(3, *shape))
    filtered = convolve(image, np.ones((1, 2, 2)) / 4, mode="reflect")
    np.testing.assert_allclose(halved(image), filtered[:, ::2, ::2], atol=1e-14)


SMALL = [(3, 2), (8, 8), (15, 15), (16, 16), (17, 17)]


@pytest.mark.parametrize(
    "shape", [*SMALL, (27, 27), (28, 28), (32, 32), (33, 33), (16, 41), (64, 64), (65, 65)]
)
def test_equals_the_slow_reference(shape: tuple[int, int]) -> None:
    a, b = pairs(*shape)
    expected = [
        reference(x.double().numpy(), y.double().numpy(), 255) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ms_ssim(a.double(), b.double(), data_range=255), expected, rtol=1e-9)
    np.testing.assert_allclose(ms_ssim(a, b, data_range=255), expected, atol=1e-5)


@pytest.mark.parametrize("size", [48, 100, 101, 160])
def test_equals_the_slow_reference_on_large_images(size: int) -> None:
    a, b = (t[:1, :1] for t in pairs(size, size))
    expected = reference(a[0].double().numpy(), b[0].double().numpy(), 255)
    np.testing.assert_allclose(ms_ssim(a, b, data_range=255), [expected], atol=1e-5)


def test_range_is_a_unit() -> None:
    a, b = pairs(32, 32)
    whole = ms_ssim(a, b, data_range=255)
    torch.testing.assert_close(ms_ssim(a / 255, b / 255, data_range=1), whole)


def test_opposite_images_count_as_nothing_alike() -> None:
    a, _ = pairs(32, 32)
    assert ms_ssim(a, 255 - a, data_range=255).tolist() == [0, 0, 0]


def test_bad_input() -> None:
    a = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"^data_range: 0 is not allowed"):
        ms_ssim(a, a, data_range=0)
    with pytest.raises(ValueError, match=r"^a, b: shapes \(2, 3, 32, 32\) and \(1, 3, 32, 32\)"):
        ms_ssim(a, a[:1], data_range=1)
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 0\) are not allowed; .* with pixels"):
        ms_ssim(a[..., :0], a[..., :0], data_range=1)
