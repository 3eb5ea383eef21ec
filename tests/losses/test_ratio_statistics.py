"""The ratio of samples of known Gaussians, in the median over draws."""

import math

import pytest
import torch

from lightning_igm.losses.ratio import (
    biased_mmd2,
    density_ratio,
    gram_matrices,
    pearson_divergence,
)


def pearson(mean_p, sd_p, mean_q, sd_q):
    spread = 2 * sd_q**2 - sd_p**2
    return sd_q**2 / (sd_p * spread**0.5) * math.exp((mean_p - mean_q) ** 2 / spread) - 1


def draws(n, count, mean_q, sd_q, seed=0):
    draw = torch.Generator().manual_seed(seed)
    q, p = torch.randn(2, count, n, 1, generator=draw)
    return mean_q + sd_q * q, p


def ratios(q, p, sigma):
    """One by one: all at once they would not fit in caches."""
    return torch.stack([density_ratio(*draw, [sigma]) for draw in zip(q, p, strict=True)])


@pytest.mark.parametrize(
    ("sigma", "low", "high", "correlation"), [(1.0, 0.17, 0.28, 0.93), (3.0, 0.17, 0.26, 0.97)]
)
def test_gaussians(sigma, low, high, correlation):
    q, p = draws(1000, 40, 0.5, 1.2)
    assert pearson(0, 1, 0.5, 1.2) == pytest.approx(0.199597, abs=1e-6)
    ratio = ratios(q, p, sigma)
    assert low < pearson_divergence(ratio).median() < high
    assert ((ratio.mean(1) - 1).abs() < 1e-3).all()
    truth = (-(q**2) / 2 + (q - 0.5) ** 2 / (2 * 1.2**2)).exp().squeeze(-1) * 1.2
    correlations = [
        torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(ratio, truth, strict=True)
    ]
    assert torch.stack(correlations).median() > correlation


@pytest.mark.parametrize(("sigma", "published"), [(1.0, 0.624), (3.0, 0.611)])
def test_gaussians_further_apart(sigma, published):
    assert pearson(0, 1, 1, 1.5) == pytest.approx(0.600415, abs=1e-6)
    q, p = draws(1000, 40, 1.0, 1.5)
    ratio = ratios(q, p, sigma)
    assert pearson_divergence(ratio).median().item() == pytest.approx(published, rel=0.12)


def test_the_mean_of_small_batches():
    q, p = draws(200, 40, 0.5, 1.2)
    assert ((density_ratio(q, p, [1.0]).mean(1) - 1).abs() < 2e-2).all()


@pytest.mark.parametrize(("sigma", "published"), [(1.0, (0.43, 0.14)), (3.0, (0.10, 0.036))])
def test_without_a_difference_the_divergence_falls_with_the_batch(sigma, published):
    medians = [
        pearson_divergence(density_ratio(*draws(n, 40, 0.0, 1.0), [sigma])).median().item()
        for n in (64, 200)
    ]
    assert medians == pytest.approx(published, rel=0.35)


def test_the_divergence_depends_on_the_features_scale():
    draw = torch.Generator().manual_seed(0)
    q, p = torch.randn(2, 20, 200, 2, generator=draw, dtype=torch.float64)
    q = 0.5 + 1.2 * q
    means = {}
    for scale in (3.0, 30.0, 1000.0):
        ratio = density_ratio(scale * q, scale * p, [1.0])
        means[scale] = pearson_divergence(ratio).mean().item(), ratio.mean().item()
    assert 9 < means[3.0][0] < 20
    assert 0.88 < means[30.0][0] < 0.92
    assert 0.999 < means[1000.0][0] < 1.001
    assert means[30.0][1] == pytest.approx(0.079, rel=0.2)


def test_the_floor_of_the_biased_mmd():
    """Without a difference its expectation is 2 (1 - E k) / n."""
    angles = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8 - math.pi / 2
    centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    draw = torch.Generator().manual_seed(0)
    modes = torch.randint(8, (2, 400, 200), generator=draw)
    offsets = torch.randn(2, 400, 200, 2, generator=draw, dtype=torch.float64)
    q, p = centres[modes] + 0.2 * offsets
    mean = biased_mmd2(gram_matrices(q, p, [1.0])).mean().item()
    assert mean == pytest.approx(0.0079984, rel=0.06)
