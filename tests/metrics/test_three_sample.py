"""The three-sample statistic against its definition by loops, and against known numbers."""

import itertools
import math
import statistics

import pytest
import torch

from lightning_igm.metrics.three_sample import KernelSums, kernel_sums, three_sample_test

SQUARE = (
    [(0, 0), (1, 0), (0, 1), (1, 1)],
    [(0, 0), (1, 0), (0, 1), (2, 1)],
    [(1, 2), (2, 1), (2, 2), (0, 2)],
)
WAVES = (
    [(math.sin(i), math.cos(i)) for i in range(8)],
    [(math.sin(i) + 0.1, math.cos(i)) for i in range(8)],
    [(math.sin(i) + 0.2, math.cos(2 * i)) for i in range(8)],
)


def codes(*sets):
    return [torch.tensor(points, dtype=torch.float64) for points in sets]


def outcome(a, b, z, **settings):
    return three_sample_test(kernel_sums(a, b), kernel_sums(a, z), **settings)


def noise(m=6, dim=3, seed=0):
    return torch.randn(3, m, dim, generator=torch.Generator().manual_seed(seed)).double()


# --- the definition, by loops over indices that differ where the U-statistics want them to --------


def slow_kernel(a, b):
    return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


def mean(values):
    return statistics.fmean(list(values))


def slow_moments(a, w):
    """Covariances of h(w, w') - h(a, w') - h(a', w) that share one point, and two."""
    m = range(len(a))
    ww = [[slow_kernel(p, q) for q in w] for p in w]
    aw = [[slow_kernel(p, q) for q in w] for p in a]
    pairs = list(itertools.permutations(m, 2))
    mu_ww, mu_aw = mean(ww[i][j] for i, j in pairs), mean(aw[i][j] for i in m for j in m)
    epsilon = mean(ww[i][j] * aw[k][i] for i, j in pairs for k in m) - mu_ww * mu_aw
    one = (
        mean(ww[i][j] * ww[i][k] for i, j, k in itertools.permutations(m, 3))
        - mu_ww**2
        + mean(aw[i][j] * aw[i][k] for i in m for j, k in pairs)
        - mu_aw**2
        + mean(aw[j][i] * aw[k][i] for i in m for j, k in pairs)
        - mu_aw**2
        - 2 * epsilon
    )
    two = (
        mean(ww[i][j] ** 2 for i, j in pairs)
        - mu_ww**2
        + 2 * mean(aw[i][j] ** 2 for i in m for j in m)
        - 2 * mu_aw**2
        - 4 * epsilon
    )
    return mu_ww - 2 * mu_aw, one, two, aw, mu_aw


def slow_test(a, b, z, floor):
    size = len(a)
    m = range(size)
    distance_b, one_b, two_b, ab, mu_ab = slow_moments(a, b)
    distance_z, one_z, two_z, az, mu_az = slow_moments(a, z)
    chi = mean(ab[i][j] * az[i][k] for i in m for j in m for k in m) - mu_ab * mu_az
    zeta_1, zeta_2 = one_b + one_z - 2 * chi, two_b + two_z - 4 * chi
    variance = 4 * (size - 2) / (size * (size - 1)) * zeta_1 + 2 / (size * (size - 1)) * zeta_2
    difference = distance_b - distance_z
    stat = difference / math.sqrt(max(variance, floor))
    return difference, variance, stat, statistics.NormalDist().cdf(stat)


@pytest.mark.parametrize("sets", [codes(*SQUARE), codes(*WAVES), noise(), noise(9, 5, seed=1)])
def test_the_statistic_equals_its_definition(sets):
    torch.testing.assert_close(
        torch.stack(outcome(*sets, variance_floor=1e-9)).tolist(),
        list(slow_test(*sets, floor=1e-9)),
        rtol=1e-10,
        atol=1e-12,
    )


def test_the_sums_equal_loops():
    a, b, _ = noise()
    m = range(len(a))
    within = [[slow_kernel(p, q) for q in b] for p in b]
    across = [[slow_kernel(p, q) for q in b] for p in a]
    expected = KernelSums(
        [sum(within[i][j] for j in m if j != i) for i in m],
        sum(within[i][j] ** 2 for i in m for j in m if j != i),
        [sum(across[i][j] for i in m) for j in m],
        [sum(across[i]) for i in m],
        sum(across[i][j] ** 2 for i in m for j in m),
    )
    for actual, values in zip(kernel_sums(a, b), expected, strict=True):
        torch.testing.assert_close(
            actual, torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=0
        )


def test_known_numbers_of_four_points():
    a, b, z = codes(*SQUARE)
    test = outcome(a, b, z)
    assert float(test.difference) == pytest.approx(-25.0416667, rel=1e-8)
    assert float(test.variance) == pytest.approx(13.7473054, rel=1e-8)
    assert float(test.stat) == pytest.approx(-6.7538971, rel=1e-7)
    assert float(outcome(a, z, b).stat) == pytest.approx(6.7538971, rel=1e-7)
    kid = kernel_sums(a, a).within.sum() / 12 + kernel_sums(a, b).within.sum() / 12
    kid = kid - 2 * kernel_sums(a, b).rows.sum() / 16
    assert float(kid) == pytest.approx(-1.8333333, rel=1e-7)


def test_known_numbers_of_waves_whose_variance_is_negative():
    test = outcome(*codes(*WAVES))
    assert float(test.difference) == pytest.approx(-0.07824228, rel=1e-6)
    assert float(test.variance) == pytest.approx(-0.19427020, rel=1e-7)
    assert float(test.stat) == pytest.approx(-24.742381, rel=1e-7)


def test_without_a_floor_a_negative_variance_is_clamped():
    test = outcome(*codes(*WAVES), variance_floor=0)
    assert float(test.stat) == pytest.approx(float(test.difference) * 1e6, rel=1e-9)


def test_p_is_that_of_the_normal_distribution():
    test = outcome(*noise(), variance_floor=100.0)
    assert abs(float(test.stat)) < 3
    expected = statistics.NormalDist().cdf(float(test.stat))
    assert float(test.p) == pytest.approx(expected, rel=1e-9)


def test_the_variance_is_that_of_the_difference():
    """Over many draws: the estimate is a few per cent low at this size."""
    draw = torch.Generator().manual_seed(0)
    outcomes = []
    for _ in range(400):
        a, b, z = torch.randn(3, 100, 2, generator=draw).double()
        outcomes.append(outcome(a, b + 0.3, z - 0.3))
    difference = torch.stack([o.difference for o in outcomes])
    variance = torch.stack([o.variance for o in outcomes])
    assert float(variance.mean() / difference.var()) == pytest.approx(1.0, abs=0.2)


def test_half_precision_features_are_summed_in_double():
    a, b, _ = noise()
    sums = kernel_sums(a.bfloat16(), b.bfloat16())
    expected = kernel_sums(a.bfloat16().double(), b.bfloat16().double())
    assert all(torch.equal(x, y) for x, y in zip(sums, expected, strict=True))
    assert sums.rows.dtype == torch.float64


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 2), (5, 2)), r"samples: shape \(5, 2\) .* real features \(4, 2\); .* \(m, D\)"),
        (((4, 2), (4, 3)), r"samples: shape \(4, 3\)"),
        (((4,), (4,)), r"samples: shape \(4,\)"),
        (((2, 2), (2, 2)), "samples: 2 are not allowed; there must be 3 or more"),
    ],
)
def test_bad_features_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        kernel_sums(*map(torch.zeros, shapes))


def test_bad_sums_and_floors_are_named():
    four, five = (kernel_sums(torch.zeros(m, 2), torch.zeros(m, 2)) for m in (4, 5))
    with pytest.raises(ValueError, match="old: sums of 5 samples; those of new are of 4"):
        three_sample_test(four, five)
    with pytest.raises(ValueError, match=r"variance_floor: -1 is not allowed; .* 0 or more"):
        three_sample_test(four, four, variance_floor=-1)
