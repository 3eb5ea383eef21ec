"""Colours of digits, and the divergence between two clouds of them."""

import math

import pytest
import torch

from lightning_igm.data.color import colorize_float
from lightning_igm.metrics import color_divergence, main_colors


def test_the_colour_of_a_drawing_is_found_on_a_noisy_background():
    draw = torch.Generator().manual_seed(0)
    grey = torch.zeros(40, 1, 32, 32)
    grey[:, :, 8:24, 14:18] = 1
    # The same draw as inside: the colours come first.
    colors = 0.5 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    images = (255 * colorize_float(grey, draw, noise=0.1)).round().byte()
    found = main_colors(images)
    expected = ((colors + 1) / 2).clamp(0, 1)
    bright = expected.sum(1) > 0.6  # Dark colours drown in the noise.
    assert bright.sum() > 30
    assert (found - expected)[bright].abs().max() < 0.06


def test_images_of_one_colour_are_taken_as_they_are():
    images = torch.full((2, 3, 8, 8), 51, dtype=torch.uint8)
    assert torch.allclose(main_colors(images), torch.full((2, 3), 0.2))


def slow_divergence(real, fake):
    """By loops over points and kernels."""
    width = [float(real[:, c].std()) * len(real) ** (-1 / 7) for c in range(3)]

    def density(point, centers, skip=None):
        kernels = [
            math.exp(
                -0.5 * sum(((p - q) / w) ** 2 for p, q, w in zip(point, c, width, strict=True))
            )
            for i, c in enumerate(centers)
            if i != skip
        ]
        return sum(kernels) / len(kernels)

    real, fake = real.tolist(), fake.tolist()
    sides = []
    for own, other in ((real, fake), (fake, real)):
        terms = []
        for i, point in enumerate(own):
            p, q = density(point, own, skip=i), density(point, other)
            terms.append(math.log(p / ((p + q) / 2)))
        sides.append(sum(terms) / len(terms))
    return sum(sides) / 2


def test_the_divergence_equals_loops():
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.rand(40, 3, generator=draw), 0.8 * torch.rand(30, 3, generator=draw)
    value, _ = color_divergence(real, fake)
    assert value == pytest.approx(slow_divergence(real.double(), fake.double()), rel=1e-9)


def test_chunks_do_not_change_it(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.rand(40, 3, generator=draw), torch.rand(30, 3, generator=draw)
    whole = color_divergence(real, fake)
    monkeypatch.setattr("lightning_igm.metrics.colors._ENTRIES", 100)
    assert color_divergence(real, fake) == pytest.approx(whole, rel=1e-12)


def test_sorted_colours_are_used_evenly():
    """The first ones would be those of one class."""
    colors = torch.rand(12_000, 3, generator=torch.Generator().manual_seed(0))
    by_class = colors[colors[:, 0].argsort()]
    assert color_divergence(colors, by_class)[0] < 0.02


def test_fresh_draws_of_the_data_are_near_zero_and_a_smaller_spread_is_not():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1500, 3, generator=draw)
    same, error = color_divergence(a, b)
    assert abs(same) < 0.01
    assert 0 < error < 0.01
    assert color_divergence(a, 0.5 + 0.5 * (b - 0.5))[0] > 0.2


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        ((5, 3), (1, 3), r"generated ones of shape \(1, 3\)"),
        ((1, 3), (5, 3), "real ones"),
        ((5, 3), (5, 2), "generated ones"),
    ],
)
def test_bad_colours_are_named(real, fake, message):
    with pytest.raises(ValueError, match=message):
        color_divergence(torch.rand(real), torch.rand(fake))


def test_bad_images_are_named():
    with pytest.raises(ValueError, match=r"images: shape \(2, 1, 8, 8\)"):
        main_colors(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
