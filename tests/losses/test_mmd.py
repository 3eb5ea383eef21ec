import pytest
import torch
from kernel_oracles import (
    KERNELS,
    gradient,
    mmd2_by_loops,
    noise,
    points,
    relative_error,
)

from lightning_igm.losses import kernels, mmd
from lightning_igm.losses.kernels import Distance, Gaussian, Linear
from lightning_igm.losses.mmd import mmd2

A = points([0.0, 0.0], [1.0, 0.0], [0.0, 2.0])
B = points([1.0, 1.0], [2.0, 0.0])

# Biased and unbiased.
PRINTED = {
    "rbf": (0.499550, -0.058294),
    "mix_rbf": (0.310458, 0.036593),
    "mix_rq": (1.083325, -0.084513),
    "mix_rq_01dot": (1.222214, -0.051180),
    "mix_rq_1dot": (2.472214, 0.248820),
    "dot": (1.388889, 0.333333),
    "distance": (1.345642, 0.059382),
    "imq": (0.352759, -0.018281),
    "poly": (9.444444, 1.541667),
}

ESTIMATORS = ("unbiased", "biased", "u_statistic")


@pytest.fixture(params=["differences", "expanded squares"])
def way(request, monkeypatch):
    if request.param == "expanded squares":
        monkeypatch.setattr(kernels, "_DIRECT_DIFFERENCES", 0)


@pytest.mark.parametrize("name", PRINTED)
def test_printed_values(name, way):
    kernel, _ = KERNELS[name]
    biased, unbiased = PRINTED[name]
    assert mmd2(kernel, A, B, estimator="biased").item() == pytest.approx(biased, abs=5.1e-7)
    assert mmd2(kernel, A, B).item() == pytest.approx(unbiased, abs=5.1e-7)


def test_a_constant_diagonal_would_pay_for_large_features():
    """Less 3 for each point, though the kernel there is 3 + ||a||^2, it would be 4.082153."""
    kernel, _ = KERNELS["mix_rq_1dot"]
    gram_a, gram_b, between = kernel(A, A), kernel(B, B), kernel(A, B)
    legacy = (gram_a.sum() - 3 * 3) / 6 + (gram_b.sum() - 2 * 3) / 2 - 2 * between.mean()
    assert legacy.item() == pytest.approx(4.082153, abs=5e-7)
    assert (legacy - mmd2(kernel, A, B)).item() == pytest.approx(23 / 6, rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", KERNELS)
def test_values_and_gradients_are_those_of_loops(name, estimator, way):
    kernel, formula = KERNELS[name]
    n = 4 if estimator == "u_statistic" else 5
    inputs = [noise(4, 3).requires_grad_(), (noise(n, 3, seed=2) + 0.5).requires_grad_()]
    actual = mmd2(kernel, *inputs, estimator=estimator)
    expected = mmd2_by_loops(formula, *inputs, estimator)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    assert relative_error(gradient(actual, inputs), gradient(expected, inputs)) < 1e-10


@pytest.mark.parametrize("name", ["rbf", "dot", "distance"])
def test_second_derivatives(name):
    kernel, _ = KERNELS[name]
    x, y = noise(3, 2).requires_grad_(), noise(2, 2, seed=2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, y: mmd2(kernel, x, y), (x, y))


def test_a_linear_kernel_compares_means():
    x, y = noise(4, 1), noise(6, 1, seed=2)
    expected = (x.mean() - y.mean()).square().item()
    actual = mmd2(Linear(), x[:, 0], y[:, 0], estimator="biased").item()
    assert actual == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_is_symmetric_and_blind_to_order(estimator):
    x, y = noise(5, 3), noise(5, 3, seed=2)
    value = mmd2(Gaussian(), x, y, estimator=estimator).item()
    assert mmd2(Gaussian(), y, x, estimator=estimator).item() == pytest.approx(value, rel=1e-12)
    both = mmd2(Gaussian(), x.flip(0), y.flip(0), estimator=estimator).item()
    assert both == pytest.approx(value, rel=1e-12)
    one = mmd2(Gaussian(), x.flip(0), y, estimator=estimator).item()
    assert (one == pytest.approx(value, rel=1e-12)) == (estimator != "u_statistic")


def test_it_is_unbiased():
    """Over all samples of 2 from 4 points without replacement, against the points themselves."""
    population, y = noise(4, 2), noise(3, 2, seed=2)
    pairs = torch.combinations(torch.arange(4))
    values = [mmd2(Gaussian(), population[pair], y).item() for pair in pairs]
    expected = mmd2(Gaussian(), population, y).item()
    assert sum(values) / len(values) == pytest.approx(expected, rel=1e-12)


def test_far_from_zero_float32_keeps_the_digits(way):
    x, y = noise(30, 3), noise(20, 3, seed=2) + 0.5
    expected = mmd2(Gaussian(), x, y).item()
    actual = mmd2(Gaussian(), (x + 1000).float(), (y + 1000).float())
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected, abs=2e-4)


def test_the_diagonal_is_the_true_one_where_distances_are_rounded(monkeypatch):
    """Under several ranks a point's own row is one of many; its distance there may be near 1."""

    def rounded(pairs):
        return distances.func(pairs) + (pairs.a[:, None] == pairs.b).all(-1)

    distances = kernels.Pairs.squared_distances
    x = 3000 * noise(20, 3)
    expected = mmd._within(Distance(), x, x, diagonal=True).item()
    monkeypatch.setattr(kernels.Pairs, "squared_distances", property(rounded))
    x = x.float()
    assert (Distance()(x, x.clone()).diagonal() - Distance().diagonal(x)).abs().min() > 0.1
    actual = mmd._within(Distance(), x, x.clone(), diagonal=True).item()
    assert actual == pytest.approx(expected, rel=1e-6)


def test_half_precision_is_widened_and_autocast_off():
    x, y = noise(4, 3).bfloat16(), noise(5, 3, seed=2).bfloat16()
    expected = mmd2(Linear(), x.float(), y.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mmd2(Linear(), x, y), expected)


@pytest.mark.parametrize("estimator", ["unbiased", "u_statistic"])
def test_a_batch_of_one_has_no_unbiased_estimate(estimator):
    one, three = torch.ones(1, 2), torch.ones(3, 2)
    with pytest.raises(ValueError, match=rf"^x: a batch of 1 is not allowed with the {estimator}"):
        mmd2(Gaussian(), one, three, estimator=estimator)
    with pytest.raises(ValueError, match=r"^y: a batch of 1 is not allowed"):
        mmd2(Gaussian(), three, one, estimator=estimator)
    assert mmd2(Gaussian(), one, one, estimator="biased").item() == 0


def test_bad_inputs_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"^x: a batch of 0 is not allowed with the biased"):
        mmd2(Gaussian(), x[:0], x, estimator="biased")
    with pytest.raises(ValueError, match=r"^y: a batch of 2 is not allowed with 3 of x"):
        mmd2(Gaussian(), x, x[:2], estimator="u_statistic")
    with pytest.raises(ValueError, match=r"^estimator: 'none' is not allowed.*unbiased, biased"):
        mmd2(Gaussian(), x, x, estimator="none")
    with pytest.raises(ValueError, match=r"^y: shape \(3, 2, 1\) is not allowed"):
        mmd2(Gaussian(), x, x[..., None])
    with pytest.raises(ValueError, match=r"length 1 are not allowed .* of length 2"):
        mmd2(Gaussian(), x, x[:, :1])
