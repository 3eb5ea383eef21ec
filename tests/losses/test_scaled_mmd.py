import pytest
import torch
from kernel_oracles import (
    SMOOTH,
    ConvCritic,
    FlatCritic,
    finite_differences,
    gradient,
    image_kernel,
    mmd2_by_loops,
    noise,
    points,
    relative_error,
    trace_of_mixed_derivatives,
)

from lightning_igm.losses.kernels import Distance, Gaussian, Linear
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.scaled_mmd import (
    features_and_squared_jacobian_norms,
    gradient_constrained_mmd2,
    smmd2,
    smmd_scale,
    squared_jacobian_norms,
    squared_sigma,
)

REAL = points([0.0, 0.0], [1.0, 0.0], [0.5, 2.0])
FAKE = points([1.0, 1.0], [-1.0, 0.0], [0.0, 0.5])


def quadratic(images):
    return images[:, 0] ** 2 + images[:, 1]


def approx(value):
    return pytest.approx(value, abs=5.1e-11)


# --- printed values ---------------------------------------------------------------------------


def test_printed_scale_and_loss():
    features, norms = features_and_squared_jacobian_norms(quadratic, REAL)
    assert norms.mean().item() == approx(8 / 3)
    scale = smmd_scale(norms)
    assert scale.item() == approx(0.0361445783)
    value = mmd2(Gaussian(1.0), features, quadratic(FAKE))
    assert value.item() == approx(-0.2934037402)
    biased = mmd2(Gaussian(1.0), features, quadratic(FAKE), estimator="biased")
    assert biased.item() == approx(0.0446403087)
    assert (scale * value).item() == approx(-0.0106049545)


def test_printed_value_of_equation_7():
    value = smmd2(Gaussian(1.0), quadratic, REAL, FAKE, REAL, lam=1.0)
    assert value.item() == approx(-0.0628722301)


def test_printed_scale_and_loss_of_swgan():
    features, norms = features_and_squared_jacobian_norms(quadratic, REAL)
    scale = smmd_scale(norms, features)
    assert scale.item() == approx(0.0208877285)
    loss = scale.sqrt() * (features.mean() - quadratic(FAKE).mean())
    assert loss.item() == approx(-0.0120438229)


@pytest.mark.parametrize(
    ("bandwidth", "lam", "expected"),
    [(1.0, 0.5, 0.4286385519), (1.0, 1.0, 0.3571987932), (0.5, 0.1, 0.1971342948)],
)
def test_printed_values_of_the_identity(bandwidth, lam, expected):
    x, y, z = points(0.0, 1.0), points(2.0, 3.5), points(0.0, 1.0, 2.0)
    for first, second in ((x, y), (y, x)):
        value = smmd2(Gaussian(bandwidth), lambda x: x, first, second, z, lam, estimator="biased")
        assert value.item() == approx(expected)


@pytest.mark.parametrize(
    ("bandwidth", "lam", "expected"), [(1.0, 0.5, 0.2569804203), (2.0, 0.1, 0.3250561516)]
)
def test_printed_values_of_the_identity_in_the_plane(bandwidth, lam, expected):
    x, y = points([0.0, 0.0], [1.0, 0.0]), points([0.0, 2.0], [1.0, 1.0], [2.0, 2.0])
    z = points([0.0, 0.0], [1.0, 1.0])
    value = smmd2(Gaussian(bandwidth), lambda x: x, x, y, z, lam, estimator="biased")
    assert value.item() == approx(expected)


def test_optimal_distance_of_two_points():
    """sup over psi of the root of 2 (1 - exp(-psi^2 theta^2 / 2)) / (lambda + 1 + psi^2)."""
    for theta, psi, expected in ((0.25, 3.269, 0.21156), (1.0, 1.514, 0.56378), (5, 0.52, 0.92245)):
        x, y = points([0.0]), points([theta])
        values = [
            smmd2(Gaussian(1.0), lambda x, c=c: c * x, x, y, x, 1.0, estimator="biased").sqrt()
            for c in (0.95 * psi, psi, 1.05 * psi)
        ]
        assert max(values) == values[1]
        assert values[1].item() == pytest.approx(expected, abs=5.1e-6)


# --- definitions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
def test_equation_7_by_its_definition(name):
    kernel, formula = SMOOTH[name]
    critic = ConvCritic(2)
    x, y, mu = noise(3, 2, 6, 6), noise(4, 2, 6, 6, seed=2), noise(2, 2, 6, 6, seed=3)
    k = image_kernel(formula, critic)
    complexity = sum(k(z, z) + trace_of_mixed_derivatives(k, z) for z in mu) / 2
    expected = mmd2_by_loops(k, x, y, "unbiased") / (0.3 + complexity)
    actual = smmd2(kernel, critic, x, y, mu, lam=0.3)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    slopes = (gradient(value, critic.parameters()) for value in (actual, expected))
    assert relative_error(*slopes) < 1e-10


def test_the_released_scale_is_that_of_a_narrower_gaussian_at_lambda_zero():
    norms = noise(5).square()
    narrow = Gaussian(10**-0.5)
    expected = squared_sigma(narrow, noise(5, 1), norms, lam=0.0)
    assert smmd_scale(norms).item() == pytest.approx(expected.item(), rel=1e-12)


def test_squares_of_features_are_averaged_over_outputs():
    features = points([1.0, 3.0], [0.0, 2.0])
    scale = smmd_scale(points(1.0, 2.0), features, coefficient=2.0)
    assert scale.item() == pytest.approx(1 / (1 + 2 * (1.5 + 14 / 4)))
    assert smmd_scale(points(1.0), points(2.0)).item() == pytest.approx(1 / 51)


def test_it_is_at_most_the_gradient_constrained_one():
    critic = FlatCritic(2)
    x, y, z = noise(4, 3), noise(5, 3, seed=2), noise(6, 3, seed=3)
    for lam in (0.01, 1.0, 30.0):
        scaled = smmd2(Gaussian(1.0), critic, x, y, z, lam, estimator="biased")
        constrained = gradient_constrained_mmd2(Gaussian(1.0), critic, x, y, z, lam)
        between = mmd2(Gaussian(1.0), critic(x), critic(y), estimator="biased") / lam
        assert 0 < scaled < constrained < between


# --- gradients --------------------------------------------------------------------------------


def released_loss(critic, real, fake):
    features, norms = features_and_squared_jacobian_norms(critic, real)
    return -smmd_scale(norms) * mmd2(Gaussian(1.0), features, critic(fake))


def loss_of_equation_7(critic, real, fake):
    return -smmd2(Gaussian(1.0), critic, real, fake, real, lam=1.0)


def scale_at_fakes(critic, real, fake):
    return -smmd2(Gaussian(1.0), critic, real, fake, fake, lam=1.0)


@pytest.mark.parametrize("loss", [released_loss, loss_of_equation_7, scale_at_fakes])
@pytest.mark.parametrize("features", [1, 2])
def test_the_critics_gradient_is_that_of_finite_differences(loss, features):
    critic, real, fake = FlatCritic(features), noise(4, 3), noise(3, 3, seed=2)
    parameters = list(critic.parameters())
    actual = gradient(loss(critic, real, fake), parameters).detach()
    expected = finite_differences(lambda: loss(critic, real, fake), parameters)
    assert relative_error(actual, expected) < 1e-8


def test_a_detached_scale_would_be_another_gradient():
    critic, real, fake = FlatCritic(1), noise(4, 3), noise(3, 3, seed=2)
    parameters = list(critic.parameters())
    scale = smmd_scale(squared_jacobian_norms(critic, real)).detach()
    wrong = gradient(-scale * mmd2(Gaussian(1.0), critic(real), critic(fake)), parameters)
    assert relative_error(wrong, gradient(released_loss(critic, real, fake), parameters)) > 0.05


@pytest.mark.parametrize("mu_is_fake", [False, True])
def test_the_scale_sends_nothing_to_the_generator(mu_is_fake):
    critic, real = FlatCritic(2), noise(4, 3)
    fake = noise(4, 3, seed=2).requires_grad_()
    mu = fake if mu_is_fake else real
    (actual,) = torch.autograd.grad(smmd2(Gaussian(1.0), critic, real, fake, mu, 1.0), fake)
    points_of_mu, norms = features_and_squared_jacobian_norms(critic, mu.detach())
    scale = squared_sigma(Gaussian(1.0), points_of_mu, norms, 1.0).detach()
    (expected,) = torch.autograd.grad(mmd2(Gaussian(1.0), critic(real), critic(fake)), fake)
    assert relative_error(actual, scale * expected) < 1e-12


def test_mu_shares_the_pass_of_the_real_images():
    calls = []
    critic = FlatCritic(2)
    critic.register_forward_hook(lambda *_: calls.append(1))
    x, y = noise(4, 3), noise(4, 3, seed=2)
    shared = smmd2(Gaussian(1.0), critic, x, y, x, 1.0)
    assert len(calls) == 2
    apart = smmd2(Gaussian(1.0), critic, x, y, x.clone(), 1.0)
    assert len(calls) == 5
    assert shared.item() == pytest.approx(apart.item(), rel=1e-14)
    slopes = (gradient(value, critic.parameters()) for value in (shared, apart))
    assert relative_error(*slopes) < 1e-12
    # Real images that want a gradient get it, but for that of the scale.
    x.requires_grad_()
    (slope,) = torch.autograd.grad(smmd2(Gaussian(1.0), critic, x, y, x, 1.0), x)
    (expected,) = torch.autograd.grad(smmd2(Gaussian(1.0), critic, x, y, x.clone(), 1.0), x)
    assert slope.any()
    assert torch.equal(slope, expected)


def test_autocast_does_not_touch_it():
    critic, x, y = FlatCritic(2).float(), noise(4, 3).float(), noise(4, 3, seed=2).float()
    expected = smmd2(Gaussian(1.0), critic, x, y, x, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(smmd2(Gaussian(1.0), critic, x, y, x, 1.0), expected)


# --- bad inputs -------------------------------------------------------------------------------


def test_bad_inputs_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"^lam: -0.1 is not allowed; it must be 0 or more"):
        smmd2(Gaussian(1.0), lambda x: x, x, x, x, lam=-0.1)
    with pytest.raises(ValueError, match=r"^kernel: Distance\(\) is not allowed"):
        smmd2(Distance(), lambda x: x, x, x, x, lam=1.0)
    with pytest.raises(ValueError, match=r"^x: a batch of 1 is not allowed with the unbiased"):
        smmd2(Gaussian(1.0), lambda x: x, x[:1], x, x, lam=1.0)
    with pytest.raises(ValueError, match=r"^critic: shape \(3, 2, 1\) is not allowed"):
        smmd2(Gaussian(1.0), lambda x: x[..., None], x, x, x, lam=1.0)
    with pytest.raises(ValueError, match=r"^mu: no images are not allowed"):
        smmd2(Gaussian(1.0), lambda x: x, x, x, x[:0], lam=1.0)
    for coefficient in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^coefficient: .* is not allowed; .* above 0"):
            smmd_scale(torch.ones(3), coefficient=coefficient)
    assert smmd2(Linear(), lambda x: x, x, x, x, lam=0).item() == 0
