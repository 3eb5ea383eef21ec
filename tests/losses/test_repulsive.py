"""The repulsive loss: golden values, the same by loops, its bounds, bad inputs."""

import pytest
import torch
from golden_samples import grid, rows
from kernel_oracles import noise

from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.repulsive import repulsive_critic_loss

REAL = grid(4, 2, lambda t: 1.5 * torch.sin(1 + t))
FAKE = grid(4, 2, lambda t: 0.5 + 0.5 * torch.cos(0.7 * t))
DIGITS = 5.1e-9


def with_gradients(**settings):
    a, b = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    loss = repulsive_critic_loss(a, b, **settings)
    return loss.item(), *torch.autograd.grad(loss, [a, b])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bounded": False}, -0.54261628),
        ({}, -0.46135818),
        ({"weight": -0.5, "bounded": False}, -0.49251992),
        ({"weight": 1.0, "bounded": False}, -0.34223085),
    ],
)
def test_golden_values(settings, expected):
    assert repulsive_critic_loss(REAL, FAKE, **settings).item() == pytest.approx(
        expected, abs=DIGITS
    )


def test_golden_gradients():
    _, real, fake = with_gradients(bounded=False)
    expected = rows(
        "-.05090398 .00698186; -.04701186 .04471202; .06044182 -.01934270; .03747401 -.03235118"
    )
    assert (real - expected).abs().max() < DIGITS
    expected = rows(
        ".21245212 .17599122; .07477713 -.10064762; -.17927756 -.16963899; -.10795170 .09429539"
    )
    assert (fake - expected).abs().max() < DIGITS
    _, real, fake = with_gradients()
    expected = rows(
        "-.04406962 .01912493; -.05454719 .02367188; .05454719 -.02367188; .04406962 -.01912493"
    )
    assert (real - expected).abs().max() < DIGITS
    expected = rows(
        ".21245212 .17599122; .02569752 -.04925385; -.17927756 -.16963899; -.05887208 .04290161"
    )
    assert (fake - expected).abs().max() < DIGITS


def test_golden_values_of_the_generator():
    b = FAKE.clone().requires_grad_()
    loss = mmd2(Gaussian(1.0), REAL, b, estimator="u_statistic")
    assert loss.item() == pytest.approx(0.34223085, abs=DIGITS)
    expected = rows(
        "-.18894156 -.22270163; -.11671939 -.05575037; .08940558 .17036223; .07476727 -.06304002"
    )
    assert (torch.autograd.grad(loss, b)[0] - expected).abs().max() < DIGITS


def by_loops(a, b, weight, lower, upper, bandwidth):
    def mean(first, second, bound):
        terms = [
            torch.exp(-bound((p - q).square().sum()) / (2 * bandwidth**2))
            for i, p in enumerate(first)
            for j, q in enumerate(second)
            if i != j
        ]
        return sum(terms) / len(terms)

    reals = mean(a, a, lambda d: d if d < upper else torch.tensor(upper, dtype=d.dtype))
    fakes = mean(b, b, lambda d: d if d > lower else torch.tensor(lower, dtype=d.dtype))
    return (weight + 1) * mean(a, b, lambda d: d) - fakes - weight * reals


@pytest.mark.parametrize(("weight", "bounded"), [(-1.0, True), (-1.0, False), (0.3, False)])
def test_value_and_gradient_are_those_of_loops(weight, bounded):
    a, b = noise(5, 3).requires_grad_(), (0.4 * noise(5, 3, seed=2)).requires_grad_()
    bounds = (0.5, 3.0) if bounded else (0.0, float("inf"))
    expected = by_loops(a, b, weight, *bounds, 0.8)
    settings = {"lower": 0.5, "upper": 3.0} if bounded else {}
    actual = repulsive_critic_loss(a, b, weight=weight, bounded=bounded, bandwidth=0.8, **settings)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    for found, slope in zip(
        torch.autograd.grad(actual, [a, b]), torch.autograd.grad(expected, [a, b]), strict=True
    ):
        torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)


def test_a_pair_at_its_bound_or_beyond_has_no_gradient():
    real = torch.tensor([[0.0], [2.0], [9.0]], requires_grad=True)
    fake = torch.tensor([[0.0], [0.5], [0.7]], requires_grad=True)
    loss = repulsive_critic_loss(real, fake)
    of_real, of_fake = torch.autograd.grad(loss, [real, fake])
    assert not of_real.any()
    assert of_fake[0].abs() > 0.01
    assert not of_fake[1].any()


def test_bad_inputs_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"^weight: 2.0 is not allowed; it must be from -1 to 1"):
        repulsive_critic_loss(x, x, weight=2.0, bounded=False)
    with pytest.raises(ValueError, match=r"^weight: 0.5 is not allowed with bounded=True"):
        repulsive_critic_loss(x, x, weight=0.5)
    with pytest.raises(ValueError, match=r"^lower: 4.0 is not allowed; it must be below upper"):
        repulsive_critic_loss(x, x, lower=4.0)
    with pytest.raises(ValueError, match=r"^lower: -1.0 is not allowed; it must be above 0"):
        repulsive_critic_loss(x, x, lower=-1.0)
    with pytest.raises(ValueError, match=r"^bandwidth: 0 is not allowed; it must be above 0"):
        repulsive_critic_loss(x, x, bandwidth=0)
    with pytest.raises(ValueError, match=r"^fake: a batch of 2 is not allowed with 3 reals"):
        repulsive_critic_loss(x, x[:2])
    with pytest.raises(ValueError, match=r"^fake: a batch of 1 is not allowed with 1 reals"):
        repulsive_critic_loss(x[:1], x[:1])
    with pytest.raises(ValueError, match=r"^fake: features of length 1 are not allowed"):
        repulsive_critic_loss(x, x[:, :1])
    with pytest.raises(ValueError, match=r"^real: shape \(3, 2, 1\) is not allowed"):
        repulsive_critic_loss(x[..., None], x)
