import math

import pytest
import torch

from lightning_igm.data import colorize, colorize_float


def phi(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_equals_the_formula_value_by_value():
    grey = torch.rand(3, 1, 4, 5, generator=generator(1))
    images = colorize_float(grey, generator(), noise=0.3)
    draws = generator()
    color = torch.randn(3, 3, 1, 1, generator=draws)
    epsilon = torch.randn(3, 3, 4, 5, generator=draws)
    for n in range(3):
        for c in range(3):
            for i in range(4):
                for j in range(5):
                    value = grey[n, 0, i, j].item()
                    x = value * 0.5 * color[n, c, 0, 0].item() + (value - 1)
                    x = min(1.0, max(-1.0, x + 0.3 * epsilon[n, c, i, j].item()))
                    assert images[n, c, i, j].item() == pytest.approx((x + 1) / 2, abs=1e-6)


def test_background_is_half_zeros_and_faint():
    # Of max(0, N(0, 0.1)): mean 0.1 / sqrt(2 pi), second moment 0.1 ** 2 / 2.
    background = colorize_float(torch.zeros(300, 1, 32, 32), generator()).double()
    mean = 0.1 / math.sqrt(2 * math.pi)
    assert (background == 0).double().mean().item() == pytest.approx(0.5, abs=0.002)
    assert background.mean().item() == pytest.approx(mean, abs=3e-4)
    assert background.std().item() == pytest.approx(math.sqrt(0.005 - mean**2), abs=3e-4)


def test_color_of_a_white_image():
    # (1 + C) / 2 clipped to [0, 1], C ~ N(0, 0.5): s.d. .240, one per image and channel.
    white = colorize_float(torch.ones(40_000, 1, 1, 1), generator(), noise=0.0).double()
    assert white.mean().item() == pytest.approx(0.5, abs=0.003)
    assert white.std().item() == pytest.approx(0.240, abs=0.002)
    assert (white == 1).double().mean().item() == pytest.approx(1 - phi(2), abs=0.002)
    flat = colorize_float(torch.ones(5, 1, 6, 6), generator(), noise=0.0)
    assert torch.equal(flat, flat[:, :, :1, :1].expand_as(flat))
    assert flat[:, :, 0, 0].unique().numel() == 15


def test_bytes_keep_the_share_of_exact_zeros_and_ones():
    images = colorize(torch.zeros(300, 1, 32, 32), seed=0)
    assert (images == 0).double().mean().item() == pytest.approx(0.5, abs=0.002)
    white = colorize(torch.ones(40_000, 1, 1, 1), seed=0, noise=0.0)
    assert (white == 255).double().mean().item() == pytest.approx(1 - phi(2), abs=0.002)
    assert images.double().mean().item() / 255 == pytest.approx(
        0.1 / math.sqrt(2 * math.pi), abs=3e-4
    )


def test_rounds_instead_of_truncating():
    grey = torch.full((1000, 1, 1, 1), 0.5)
    floats = torch.cat(
        [colorize_float(grey[:250], rng) for rng in [generator(7)] for _ in range(4)]
    )
    codes = (floats * 255).round()
    inside = (floats > 0) & (floats < 1)
    codes[inside] = codes[inside].clamp(1, 254)
    assert torch.equal(colorize(grey, seed=7), codes.to(torch.uint8))


def test_same_seed_same_bytes():
    grey = torch.rand(600, 1, 8, 8, generator=generator())
    before = torch.get_rng_state()
    first = colorize(grey, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(colorize(grey, seed=5), first)
    assert not torch.equal(colorize(grey, seed=6), first)
    assert first.shape == (600, 3, 8, 8)
    assert first.dtype == torch.uint8


def test_uint8_input_is_the_same_as_its_fractions():
    grey = torch.randint(256, (30, 1, 8, 8), generator=generator(), dtype=torch.uint8)
    assert torch.equal(colorize(grey, seed=0), colorize(grey.float() / 255, seed=0))


def test_does_not_depend_on_threads():
    grey = torch.rand(300, 1, 32, 32, generator=generator())
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(colorize(grey, seed=0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"grey has shape \(2, 3, 8, 8\), expected \(N, 1, H, W\)"):
        colorize(torch.zeros(2, 3, 8, 8), seed=0)
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise="):
            colorize(torch.zeros(2, 1, 8, 8), seed=0, noise=noise)
