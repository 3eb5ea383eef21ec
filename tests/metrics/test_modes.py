"""Scores of points against the ring, beside slow sums and values worked out by hand."""

import math

import pytest
import torch

from lightning_igm.data import RingDataModule
from lightning_igm.metrics.modes import ModeReference, mean_kernel, mode_scores, unbiased_mmd2

BANDWIDTHS = (0.2, 0.5, 1.0)


def circle(modes=8):
    angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes) - math.pi / 2
    return 2 * torch.stack([angles.cos(), angles.sin()], 1)


def kernel_mean(first, second, bandwidth):
    """E k(x, y) of two mixtures (centres, weights, sd) in the plane."""
    (a, u, s), (b, v, t) = first, second
    variance = bandwidth**2 + s**2 + t**2
    values = (-torch.cdist(a, b).square() / (2 * variance)).exp() * bandwidth**2 / variance
    return u @ values @ v


def population_mmd2(other, bandwidth):
    ring = mixture()
    pairs = ((other, other), (ring, ring), (other, ring))
    within, data, between = (kernel_mean(*pair, bandwidth) for pair in pairs)
    return within + data - 2 * between


def mixture(kept=range(8), sd=0.2, modes=8):
    kept = list(kept)
    weights = torch.full((len(kept),), 1 / len(kept), dtype=torch.float64)
    return circle(modes)[kept], weights, sd


def draw(mixture, count, seed=0):
    centres, weights, sd = mixture
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return (centres[chosen] + sd * noise).float()


ALTERNATIVES = {
    "one missing": (mixture(range(7)), (0.00595, 0.01342, 0.01481)),
    "alternate": (mixture(range(0, 8, 2)), (0.04166, 0.08926, 0.04286)),
    "one alone": (mixture([3]), (0.29166, 0.65744, 0.72576)),
    "narrow": (mixture(sd=0.1), (0.01389, 0.00217, 0.00013)),
    "wide": (mixture(sd=0.4), (0.01433, 0.00961, 0.00144)),
    "smeared": (mixture(range(400), modes=400), (0.01855, 0.01239, 0.00023)),
}


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_mmd2_estimates_the_population_values(name):
    other, published = ALTERNATIVES[name]
    exact = torch.stack([population_mmd2(other, bandwidth) for bandwidth in BANDWIDTHS])
    torch.testing.assert_close(
        exact, torch.tensor(published, dtype=torch.float64), rtol=0, atol=6e-6
    )
    data, samples = draw(mixture(), 4000), draw(other, 4000, seed=1)
    found = unbiased_mmd2(samples, data, BANDWIDTHS)
    torch.testing.assert_close(found, exact, rtol=0.06, atol=3e-3)


def test_mean_kernel_of_the_data_is_the_population_value():
    found = mean_kernel(draw(mixture(), 4000), BANDWIDTHS)
    exact = torch.tensor([0.041671, 0.100137, 0.200163]).double()
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_mmd2_is_that_of_a_slow_sum_however_many_chunks(dim, monkeypatch):
    monkeypatch.setattr("lightning_igm.metrics.modes._PAIRS_AT_ONCE", 40)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(9, dim, generator=generator, dtype=torch.float64) * 2 + 1
    expected = []
    for bandwidth in BANDWIDTHS:

        def k(a, b, h=bandwidth):
            return math.exp(-float((a - b).square().sum()) / (2 * h**2))

        within = [
            sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j)
            / (len(z) * (len(z) - 1))
            for z in (x, y)
        ]
        between = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
        expected.append(sum(within) - 2 * between)
    found = unbiased_mmd2(x, y, BANDWIDTHS)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12
    )
    known = unbiased_mmd2(x, y, BANDWIDTHS, within=mean_kernel(y, BANDWIDTHS))
    assert torch.equal(known, found)


def test_the_mean_over_draws_is_zero_for_equal_laws():
    found = torch.stack(
        [
            unbiased_mmd2(draw(mixture(), 300, 2 * s), draw(mixture(), 300, 2 * s + 1), [0.5])
            for s in range(40)
        ]
    )
    assert abs(found.mean()) < 4 * found.std() / 40**0.5
    assert (found < 0).any()


def test_far_points_have_no_kernel_and_cost_no_digits():
    x = torch.tensor([[0.0, 0.0], [1e8, 0.0], [-1e30, 1e30]])
    assert mean_kernel(x, [1.0]) < 1e-30


def test_scores_of_an_exact_model():
    samples = draw(mixture(), 60_000)
    scores = mode_scores(samples, circle())
    assert scores.modes_covered == 8
    assert scores.hq == pytest.approx(0.98889, abs=0.002)
    assert scores.kl_rev < 0.0005
    assert scores.kl_fwd < 0.0005


def test_a_smeared_ring_covers_all_and_has_the_derived_quality():
    scores = mode_scores(draw(mixture(range(400), modes=400), 60_000), circle())
    assert scores.modes_covered == 8
    assert scores.hq == pytest.approx(0.718, abs=0.006)


def test_histograms_by_hand():
    # Three of four points at the first of two modes.
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    samples = centres[[0, 0, 0, 1]]
    scores = mode_scores(samples, centres)
    assert scores.kl_rev == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert scores.kl_fwd == pytest.approx(0.5 * math.log(1 / 1.5) + 0.5 * math.log(1 / 0.5))
    alone = mode_scores(samples[:3], centres)
    assert alone.kl_rev == pytest.approx(math.log(2))
    assert alone.kl_fwd == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5e12))
    assert alone.modes_covered == 1


def test_a_mode_is_covered_from_a_fifth_of_its_share_on():
    # 0.2 x 0.98889 / 8 = 0.024722 of all samples, those too far off not counted.
    def covered(near, far=0):
        rest = circle()[torch.arange(7).repeat_interleave(10_000)][: 10_000 - near - far]
        offset = torch.tensor([[0.61, 0.0]], dtype=torch.float64)
        own = circle()[7:].expand(near, 2), circle()[7:].expand(far, 2) + offset
        return mode_scores(torch.cat([*own, rest]), circle()).modes_covered

    assert covered(247) == covered(246) == 1
    assert covered(248) == 2
    assert covered(246, far=500) == 1


def test_quality_counts_up_to_three_deviations():
    def hq(*point):
        return mode_scores(torch.tensor([point]), circle()).hq

    assert hq(2.0, 0.59) == hq(2.59, 0.0) == 1
    assert hq(2.0, 0.61) == hq(2.61, 0.0) == 0
    assert hq(2.0, 0.0, 0.29) == hq(2.0, 0.0, -0.29) == 1
    assert hq(2.0, 0.0, 0.31) == hq(2.0, 0.0, -0.31) == 0


def reference(dim):
    ring = RingDataModule(dim=dim, count=20_000, test_count=4000)
    ring.setup()
    return ring, ModeReference(ring.test_data, ring.centres, ring.unrotated)


@pytest.mark.parametrize(("dim", "quality"), [(2, 0.98889), (3, 0.98622)])
def test_the_training_points_are_good_samples(dim, quality):
    ring, against = reference(dim)
    scores = against.scores(ring.train_data[:10_000])
    assert list(scores) == against.names
    assert scores["modes_covered"] == 8
    assert scores["hq"] == pytest.approx(quality, abs=0.004)
    assert all(abs(scores[f"mmd2_{h:g}"]) < 6e-4 for h in BANDWIDTHS)
    assert scores["diverged"] == 0


def test_three_dimensions_are_turned_back_for_modes_but_not_for_the_kernel():
    ring, against = reference(3)
    tilted = against.scores(ring.train_data[:4000])
    flat = against.scores(ring.unrotated(ring.train_data[:4000]))
    assert tilted["hq"] > 0.95 > 0.5 > flat["hq"]
    assert flat["mmd2_0.2"] > 0.01 > abs(tilted["mmd2_0.2"])


def test_divergence():
    ring, against = reference(2)
    samples = ring.train_data[:1000].clone()
    samples[:500, 0] = 3.01
    assert against.scores(samples)["diverged"] == 0, "half is not more than half"
    samples[500, 1] = -3.01
    assert against.scores(samples)["diverged"] == 1
    samples = ring.train_data[:1000].clone()
    samples[0, 0] = torch.nan
    scores = against.scores(samples)
    assert scores["diverged"] == 1
    assert scores["modes_covered"] == 8
    assert 0.9 < scores["hq"] < 1
    assert all(math.isnan(scores[n]) for n in ("kl_rev", "kl_fwd", "mmd2_0.2", "mmd2_1"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mode_scores(torch.zeros(3, 4), circle()), r"samples: shape \(3, 4\)"),
        (lambda: mode_scores(torch.zeros(0, 2), circle()), r"samples: shape \(0, 2\)"),
        (lambda: mode_scores(torch.zeros(3, 2), torch.zeros(2)), r"centres: shape \(2,\)"),
        (lambda: mode_scores(torch.zeros(3, 2), circle(), sd=0.0), "sd: 0.0"),
        (lambda: unbiased_mmd2(torch.zeros(1, 2), torch.zeros(3, 2), [1.0]), r"samples.*\(1, 2\)"),
        (lambda: unbiased_mmd2(torch.zeros(3, 3), torch.zeros(3, 2), [1.0]), r"samples.*\(3, 3\)"),
        (lambda: unbiased_mmd2(torch.zeros(3, 2), torch.zeros(1, 2), [1.0]), r"data.*\(1, 2\)"),
        (lambda: unbiased_mmd2(torch.zeros(3, 2), torch.zeros(3, 2), [0.0]), "bandwidths: 0.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
