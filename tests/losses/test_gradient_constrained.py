import itertools

import pytest
import torch
from kernel_oracles import (
    SMOOTH,
    ConvCritic,
    FlatCritic,
    Programme,
    finite_differences,
    functional_gram,
    gradient,
    image_kernel,
    noise,
    points,
    relative_error,
)

from lightning_igm.losses import gradient_constrained
from lightning_igm.losses.gradient_constrained import (
    Functionals,
    gradient_constrained_mmd2,
    inner_products,
)
from lightning_igm.losses.kernels import Distance, Gaussian, Linear
from lightning_igm.losses.mmd import mmd2

LINE = (points([0.0], [1.0]), points([2.0], [3.5]), points([0.0], [1.0], [2.0]))
PLANE = (
    points([0.0, 0.0], [1.0, 0.0]),
    points([0.0, 2.0], [1.0, 1.0], [2.0, 2.0]),
    points([0.0, 0.0], [1.0, 1.0]),
)

# Points, bandwidth, lambda, the biased MMD^2, and the value.
PRINTED = [
    (LINE, 1.0, 0.5, 1.0715963797, 1.1177294761),
    (LINE, 1.0, 1.0, 1.0715963797, 0.7148846241),
    (LINE, 0.5, 0.1, 1.0053849036, 4.1358170640),
    (PLANE, 1.0, 0.5, 0.8994314710, 0.9138810383),
    (PLANE, 2.0, 0.1, 0.5200898425, 1.5588007075),
]


def identity(images):
    return images


@pytest.mark.parametrize("solve", [{}, {"rank": 100, "tolerance": 0.0}])
@pytest.mark.parametrize(("where", "bandwidth", "lam", "mmd", "expected"), PRINTED)
def test_printed_values(where, bandwidth, lam, mmd, expected, solve):
    x, y, z = where
    kernel = Gaussian(bandwidth)
    assert mmd2(kernel, x, y, estimator="biased").item() == pytest.approx(mmd, abs=5.1e-11)
    value = gradient_constrained_mmd2(kernel, identity, x, y, z, lam, **solve)
    assert value.item() == pytest.approx(expected, abs=1.1e-10)
    swapped = gradient_constrained_mmd2(kernel, identity, y, x, z, lam, **solve)
    assert swapped.item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("features", [1, 2, 5])
def test_it_is_what_maximising_gives(name, features):
    """Over the span of all functions that count, by autograd through kernel and critic."""
    kernel, formula = SMOOTH[name]
    critic = FlatCritic(features)
    x, y, z = noise(2, 3), noise(3, 3, seed=2), noise(3, 3, seed=3)
    programme = Programme(image_kernel(formula, critic), x, y, z)
    weights = points(0.5, 0.2, 0.3)
    for lam in (0.01, 1.0):
        expected = programme.maximum_in_the_mean(lam).item()
        value = gradient_constrained_mmd2(kernel, critic, x, y, z, lam)
        assert value.item() == pytest.approx(expected, rel=1e-8)
        expected = programme.maximum_in_the_mean(lam, weights).item()
        for rank in (None, 100):
            value = gradient_constrained_mmd2(
                kernel, critic, x, y, z, lam, weights=weights, rank=rank, tolerance=0.0
            )
            assert value.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", SMOOTH)
def test_inner_products_are_those_by_autograd(name):
    kernel, formula = SMOOTH[name]
    z = noise(3, 2)
    blocks = functional_gram(formula, z, z)
    products = inner_products(kernel, Functionals.at(z), z)
    ordered = products.view(3, 3, 3, 3)
    assert relative_error(ordered[:, 0, :, 0], blocks[:3, :3]) < 1e-12
    assert relative_error(ordered[:, 0, :, 1:].flatten(1), blocks[:3, 3:]) < 1e-12
    assert relative_error(ordered[:, 1:, :, 0].flatten(0, 1), blocks[3:, :3]) < 1e-12
    slopes = ordered[:, 1:, :, 1:].flatten(0, 1).flatten(1)
    assert relative_error(slopes, blocks[3:, 3:]) < 1e-12


@pytest.mark.parametrize("solve", [{}, {"rank": 100, "tolerance": 0.0}, {"rank": 4}])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("features", [1, 2])
def test_the_critics_gradient_is_that_of_finite_differences(features, shared, solve):
    critic = FlatCritic(features)
    x, y, z = noise(3, 3), noise(4, 3, seed=2), noise(5, 3, seed=3)

    def value():
        mu = x if shared else z
        return gradient_constrained_mmd2(Gaussian(1.0), critic, x, y, mu, 0.2, **solve)

    parameters = list(critic.parameters())
    actual = gradient(value(), parameters).detach()
    assert relative_error(actual, finite_differences(value, parameters)) < 1e-7


def test_the_fakes_gradient_is_that_of_finite_differences():
    critic, x, y = FlatCritic(2), noise(3, 3), noise(4, 3, seed=2)

    def value():
        return gradient_constrained_mmd2(Gaussian(1.0), critic, x, y, x, 0.2)

    expected = finite_differences(value, [y])
    y.requires_grad_()
    (actual,) = torch.autograd.grad(value(), y)
    assert relative_error(actual.flatten(), expected) < 1e-7


def test_the_points_of_mu_are_constants():
    critic, x, y = FlatCritic(2), noise(3, 3), noise(4, 3, seed=2).requires_grad_()
    slopes = [
        torch.autograd.grad(gradient_constrained_mmd2(Gaussian(), critic, x, y, z, 1.0), y)[0]
        for z in (y, y.detach())
    ]
    assert torch.equal(*slopes)


def test_order_and_weights():
    critic, x, y, z = FlatCritic(2), noise(3, 3), noise(4, 3, seed=2), noise(3, 3, seed=3)

    def value(z, **keywords):
        return gradient_constrained_mmd2(Gaussian(), critic, x, y, z, 0.3, **keywords).item()

    expected = value(z)
    assert value(z.flip(0)) == pytest.approx(expected, rel=1e-12)
    assert value(z, weights=torch.full((3,), 1 / 3)) == pytest.approx(expected, rel=1e-7)
    assert value(torch.cat([z, z])) == pytest.approx(expected, rel=1e-12)
    # A point of no weight is no point; a point twice is one of twice the weight.
    without = value(z[:2])
    assert value(z, weights=points(0.5, 0.5, 0.0)) == pytest.approx(without, rel=1e-12)
    doubled = value(z[[0, 0, 1, 2]])
    assert value(z, weights=points(0.5, 0.25, 0.25)) == pytest.approx(doubled, rel=1e-12)


# --- the low-rank solve -----------------------------------------------------------------------


def test_the_value_of_a_low_rank_is_a_lower_bound_that_rises():
    critic = FlatCritic(2)
    x, y, z = noise(6, 3), noise(6, 3, seed=2), noise(12, 3, seed=3)

    def value(rank, tolerance=0.0):
        return gradient_constrained_mmd2(
            Gaussian(1.0), critic, x, y, z, 0.05, rank=rank, tolerance=tolerance
        ).item()

    exact = gradient_constrained_mmd2(Gaussian(1.0), critic, x, y, z, 0.05).item()
    values = [value(rank) for rank in range(1, 37)]
    assert all(earlier <= later + 1e-12 for earlier, later in itertools.pairwise(values))
    assert values[0] < 0.5 * exact
    assert values[-1] == pytest.approx(exact, rel=1e-9)
    assert value(18) == pytest.approx(exact, rel=0.02)
    assert value(1000) == pytest.approx(exact, rel=1e-9)
    ended = value(1000, tolerance=1e-3)
    assert ended == pytest.approx(exact, rel=0.02)
    assert ended != pytest.approx(exact, rel=1e-9)
    assert value(1000, tolerance=0.5) == pytest.approx(value(1000, tolerance=0.49), rel=0.3)


def test_pivots_are_those_of_the_textbook():
    """What is left of each functional, by deflation of the whole matrix, in the images' weights."""
    z, kernel = noise(5, 2), Gaussian(3.0)
    jacobians, weights = noise(5, 2, 4, seed=2), points(0.1, 0.3, 0.1, 0.3, 0.2)
    lengths = torch.cat([torch.ones(5, 1), jacobians.square().sum(2)], dim=1) * weights[:, None]
    support = gradient_constrained._Support(kernel, z, jacobians, weights)
    picks, useful = gradient_constrained._picked(support, 12, 0.05)
    left = inner_products(kernel, Functionals.at(z), z).flatten(1)
    first = (left.diagonal() * lengths.flatten()).max()
    for step in range(12):
        scores = left.diagonal() * lengths.flatten()
        pivot = scores.argmax()
        assert useful[step] == (scores[pivot] > 0.05 * first)
        if not useful[step]:
            break
        assert picks[step] == pivot
        left = left - torch.outer(left[pivot], left[pivot]) / left[pivot, pivot]
    assert 3 <= useful.sum() < 12
    assert not useful[useful.sum() :].any()


def test_duplicates_leave_nothing_to_pick():
    critic, x, y = FlatCritic(2), noise(3, 3), noise(4, 3, seed=2)
    z = noise(2, 3, seed=3).repeat(4, 1)
    exact = gradient_constrained_mmd2(Gaussian(), critic, x, y, z, 0.1)
    low = gradient_constrained_mmd2(Gaussian(), critic, x, y, z, 0.1, rank=24, tolerance=0.0)
    assert low.item() == pytest.approx(exact.item(), rel=1e-10)
    assert gradient(low, critic.parameters()).isfinite().all()


# --- precision --------------------------------------------------------------------------------


def test_float32_features_are_solved_in_float64():
    critic, x, y = ConvCritic(2), noise(6, 2, 6, 6), noise(6, 2, 6, 6, seed=2)
    expected = gradient_constrained_mmd2(Gaussian(), critic, x, y, x, 1e-4)
    critic.float()
    for rank in (None, 18):
        actual = gradient_constrained_mmd2(
            Gaussian(), critic, x.float(), y.float(), x.float(), 1e-4, rank=rank, tolerance=0.0
        )
        assert actual.dtype == torch.float32
        assert actual.item() == pytest.approx(expected.item(), rel=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        again = gradient_constrained_mmd2(
            Gaussian(), critic, x.float(), y.float(), x.float(), 1e-4, rank=18, tolerance=0.0
        )
    assert torch.equal(again, actual)


def test_mu_shares_the_pass_of_the_real_images():
    calls = []
    critic = FlatCritic(2)
    critic.register_forward_hook(lambda *_: calls.append(1))
    x, y = noise(4, 3), noise(4, 3, seed=2)
    gradient_constrained_mmd2(Gaussian(), critic, x, y, x, 1.0)
    assert len(calls) == 2


# --- bad inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 40])
@pytest.mark.parametrize("features", [1, 2])
def test_a_singular_system_is_named(rank, features):
    """Duplicates make it singular, but for a lambda that is lost in rounding."""
    critic, x, y = FlatCritic(features), noise(4, 3), noise(4, 3, seed=2)
    z = noise(2, 3, seed=3).repeat(4, 1)
    with pytest.raises(ValueError, match=r"^lam: 1e-20 is not allowed with these.*singular") as e:
        gradient_constrained_mmd2(Gaussian(), critic, x, y, z, 1e-20, rank=rank)
    assert "\n" not in str(e.value)
    gradient_constrained_mmd2(Gaussian(), critic, x, y, z, 1e-10, rank=rank)


def test_a_dead_or_a_steep_critic_makes_no_singular_system():
    x, y = noise(4, 3), noise(4, 3, seed=2)
    for factor in (0.0, 1e-8, 1e8):
        value = gradient_constrained_mmd2(Gaussian(), lambda x: factor * x, x, y, x, 1.0)  # noqa: B023
        assert value.isfinite()
        assert value >= -1e-12


def test_not_a_number_is_passed_on():
    """What a run's watch on its losses sees must not be taken for a singular system."""
    x, y = noise(4, 3), noise(4, 3, seed=2)
    x[0, 0] = float("nan")
    for rank in (None, 5):
        value = gradient_constrained_mmd2(Gaussian(), identity, x, y, x, 1.0, rank=rank)
        assert value.isnan()


def test_bad_arguments_are_named():
    x = torch.rand(3, 2)

    def value(kernel=None, lam=1.0, x=x, **keywords):
        return gradient_constrained_mmd2(kernel or Gaussian(), identity, x, x, x, lam, **keywords)

    for lam in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"^lam: {lam} is not allowed; it must be above 0"):
            value(lam=lam)
    with pytest.raises(ValueError, match=r"^kernel: Distance\(\) is not allowed"):
        value(Distance())
    with pytest.raises(ValueError, match=r"^rank: 0 is not allowed"):
        value(rank=0)
    with pytest.raises(ValueError, match=r"^tolerance: -1 is not allowed"):
        value(rank=2, tolerance=-1)
    with pytest.raises(ValueError, match=r"^weights: shape \(2,\) is not allowed; .* \(3,\)"):
        value(weights=torch.ones(2))
    with pytest.raises(ValueError, match=r"^critic: shape \(3, 2, 1\) is not allowed"):
        value(x=x[..., None])
    with pytest.raises(ValueError, match=r"^z: no points are not allowed"):
        gradient_constrained_mmd2(Gaussian(), identity, x, x, x[:0], 1.0)
    assert value(Linear()).item() == pytest.approx(0, abs=1e-6)
