import pytest
import torch
from kernel_oracles import (
    SMOOTH,
    ConvCritic,
    FlatCritic,
    finite_differences,
    gradient,
    image_kernel,
    noise,
    points,
    relative_error,
)
from torch import nn

from lightning_igm.losses.cramer import cramer_penalty
from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.penalties import (
    activation_penalty,
    gradient_penalty,
    interpolates,
    slope_penalty,
    sobolev_constraint,
    values_and_sobolev_constraint,
    witness_penalty,
    zero_centred_penalty,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(weight):
    return lambda images: images.flatten(1) @ weight.flatten()


def penalty_by_loops(value_of_image, images, epsilon=0.0):
    """One gradient for each point."""
    terms = []
    for image in images:
        image = image.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value_of_image(image), image, create_graph=True)
        terms.append(((slope.square().sum() + epsilon).sqrt() - 1) ** 2)
    return sum(terms) / len(terms)


def points_between(real, fake, seed=0):
    """With one number for each pair, of those that the generator gives first."""
    pairs = min(len(real), len(fake))
    u = torch.rand(pairs, generator=seeded(seed), dtype=real.dtype)
    return torch.stack([(1 - u[i]) * real[i] + u[i] * fake[i] for i in range(pairs)])


# --- printed values ---------------------------------------------------------------------------


def test_the_norm_is_that_of_the_whole_gradient():
    """The norm along the channels alone would give 0.017949."""
    weight = torch.full((3, 2, 2), 0.5, dtype=torch.float64)
    real, fake = noise(4, 3, 2, 2), noise(4, 3, 2, 2, seed=2)
    value = gradient_penalty(linear(weight), real, fake).item()
    assert value == pytest.approx(0.535898, abs=5e-7)
    channels = (weight.square().sum(0).sqrt() - 1).square().mean().item()
    assert channels == pytest.approx(0.017949, abs=5e-7)


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_critic_pays_for_its_norm_exactly(seed):
    weight = noise(2, 3, 3, seed=seed)
    real, fake = noise(5, 2, 3, 3), noise(4, 2, 3, 3, seed=2)
    expected = (weight.norm() - 1).square().item()
    assert gradient_penalty(linear(weight), real, fake).item() == pytest.approx(expected, rel=1e-14)


def test_printed_penalty_of_a_witness():
    point = points([0.5]).requires_grad_()
    kernel = Gaussian(1.0)
    witness = kernel(point, points(0.0)).mean(1) - kernel(point, points(1.0)).mean(1)
    (slope,) = torch.autograd.grad(witness.sum(), point, retain_graph=True)
    assert slope.item() == pytest.approx(-0.882497, abs=5e-7)
    value = slope_penalty(witness, point, epsilon=1e-5).item()
    assert value == pytest.approx(0.0138056, abs=5e-8)


def test_a_witness_is_flattened_by_its_epsilon():
    """Real and fake alike leave a witness of zero: (sqrt(1e-5) - 1)^2."""
    images = noise(3, 2)
    value = witness_penalty(Gaussian(1.0), lambda x: x, images, images)
    assert value.item() == pytest.approx((1e-5**0.5 - 1) ** 2, rel=1e-12)


def test_printed_constraint_of_sobolev_gan():
    weight = points(1.0, 1.0, -1.0)
    real, fake = noise(4, 3), noise(5, 3, seed=2)
    assert sobolev_constraint(linear(weight), real, fake).item() == pytest.approx(2, rel=1e-14)
    multiplier, rho = 0.0, 0.1
    for part, following in ((0.2, 0.2), (0.6, 0.4)):
        omega = sobolev_constraint(linear(weight), real, fake)
        value = multiplier * omega + rho / 2 * omega**2
        assert value.item() == pytest.approx(part, rel=1e-12)
        multiplier += rho * omega.item()
        assert multiplier == pytest.approx(following, rel=1e-12)


def test_activations_pay_for_their_mean_square():
    first = points([1.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0])
    second = torch.full((2, 1, 2, 2), 3.0, dtype=torch.float64)
    assert activation_penalty([first, second]).item() == pytest.approx(10 / 8 + 9, rel=1e-14)
    assert activation_penalty(iter([first])).item() == pytest.approx(10 / 8, rel=1e-14)
    first.requires_grad_()
    (slope,) = torch.autograd.grad(activation_penalty([first]), first)
    assert torch.equal(slope, first / 4)
    assert activation_penalty([torch.full((2,), 300.0).half()]).item() == 90000


# --- against loops ----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (5, 3)])
def test_gradient_penalty_is_that_of_loops(sizes):
    critic = ConvCritic(1)
    real, fake = noise(sizes[0], 2, 6, 6), noise(sizes[1], 2, 6, 6, seed=2)
    actual = gradient_penalty(critic, real, fake, seeded())
    expected = penalty_by_loops(
        lambda image: critic(image[None]).squeeze(), points_between(real, fake)
    )
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = (gradient(value, critic.parameters()) for value in (actual, expected))
    assert relative_error(*slopes) < 1e-11


@pytest.mark.parametrize("name", ["rbf", "mix_rq_1dot", "imq"])
@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
@pytest.mark.parametrize("known", [False, True])
def test_witness_penalty_is_that_of_loops(name, sizes, known):
    kernel, formula = SMOOTH[name]
    critic = ConvCritic(2)
    real, fake = noise(sizes[0], 2, 6, 6), noise(sizes[1], 2, 6, 6, seed=2)
    features = (critic(real), critic(fake)) if known else None
    actual = witness_penalty(kernel, critic, real, fake, seeded(), features=features)
    k = image_kernel(formula, critic)

    def witness(t):
        return sum(k(t, x) for x in real) / len(real) - sum(k(t, y) for y in fake) / len(fake)

    expected = penalty_by_loops(witness, points_between(real, fake), epsilon=1e-5)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = (gradient(value, critic.parameters()) for value in (actual, expected))
    assert relative_error(*slopes) < 1e-10


def test_sobolev_constraint_is_that_of_loops():
    critic = ConvCritic(1)
    real, fake = noise(3, 2, 6, 6), noise(5, 2, 6, 6, seed=2)
    real_values, fake_values, actual = values_and_sobolev_constraint(critic, real, fake)
    assert torch.equal(real_values, critic(real))
    assert torch.equal(fake_values, critic(fake))

    def mean_square(images):
        squares = []
        for image in images:
            image = image.detach().requires_grad_()
            (slope,) = torch.autograd.grad(critic(image[None]), image, create_graph=True)
            squares.append(slope.square().sum())
        return sum(squares) / len(squares)

    expected = mean_square(real) / 2 + mean_square(fake) / 2 - 1
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = (gradient(value, critic.parameters()) for value in (actual, expected))
    assert relative_error(*slopes) < 1e-11


def test_gradients_are_those_of_finite_differences():
    critic, real, fake = FlatCritic(1), noise(4, 3), noise(4, 3, seed=2)
    parameters = list(critic.parameters())
    penalties = (
        lambda: gradient_penalty(critic, real, fake, seeded()),
        lambda: witness_penalty(Gaussian(1.0), critic, real, fake, seeded()),
        lambda: sobolev_constraint(critic, real, fake) ** 2,
    )
    for penalty in penalties:
        actual = gradient(penalty(), parameters).detach()
        assert relative_error(actual, finite_differences(penalty, parameters)) < 1e-7


def test_the_witness_moves_with_the_features_of_both_samples():
    """Constant samples would give another gradient."""
    critic, real, fake = FlatCritic(2), noise(4, 3), noise(4, 3, seed=2)
    parameters = list(critic.parameters())
    constant = (critic(real).detach(), critic(fake).detach())
    values = [
        witness_penalty(Gaussian(1.0), critic, real, fake, seeded(), features=features)
        for features in (None, constant)
    ]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-14)
    assert relative_error(*(gradient(value, parameters) for value in values)) > 0.1


# --- points -----------------------------------------------------------------------------------


def test_points_are_one_number_along_each_pair():
    real, fake = noise(50, 2, 3, 3), noise(40, 2, 3, 3, seed=2)
    between = interpolates(real, fake, seeded())
    assert torch.equal(between, points_between(real, fake))
    assert between.shape == (40, 2, 3, 3)
    assert between.is_leaf
    assert between.requires_grad
    u = ((between - real[:40]) / (fake - real[:40])).detach().flatten(1)
    assert (u.max(1).values - u.min(1).values).max() < 1e-9
    assert u.min() >= 0
    assert u.max() <= 1
    assert 0.1 < u[:, 0].std() < 0.5
    assert not torch.equal(between, interpolates(real, fake, seeded(1)))


def test_penalties_send_nothing_to_the_generator():
    critic, real = ConvCritic(1), noise(3, 2, 6, 6)
    fake = noise(3, 2, 6, 6, seed=2).requires_grad_()
    for value in (gradient_penalty(critic, real, fake), sobolev_constraint(critic, real, fake)):
        (slope,) = torch.autograd.grad(value, fake, allow_unused=True)
        assert slope is None


@pytest.mark.parametrize("gain", [0.0, 1e-30])
def test_a_flat_critic_has_a_finite_gradient(gain):
    critic = FlatCritic(1)
    with torch.no_grad():
        critic.layers[-1].weight.mul_(gain)
    value = gradient_penalty(critic, noise(3, 3), noise(3, 3, seed=2))
    assert value.item() == pytest.approx(1, rel=1e-9)
    assert gradient(value, critic.parameters()).isfinite().all()


def test_fakes_in_half_precision_under_autocast_are_taken_in_the_weights_precision():
    critic = FlatCritic(1).float()
    real, fake = noise(3, 3).float(), noise(3, 3, seed=2).bfloat16()
    penalties = (
        lambda f: gradient_penalty(critic, real, f, seeded()),
        lambda f: witness_penalty(Gaussian(1.0), critic, real, f, seeded()),
        lambda f: sobolev_constraint(critic, real, f),
    )
    for penalty in penalties:
        expected = penalty(fake.float())
        with torch.autocast("cpu", torch.bfloat16):
            actual = penalty(fake)
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)


def test_without_gradients_only_values_are_computed():
    critic, real, fake = ConvCritic(1), noise(3, 2, 6, 6), noise(3, 2, 6, 6, seed=2)
    penalties = (
        lambda: gradient_penalty(critic, real, fake, seeded()),
        lambda: cramer_penalty(critic, real, fake, seeded()),
        lambda: witness_penalty(Gaussian(1.0), critic, real, fake, seeded()),
        lambda: sobolev_constraint(critic, real, fake),
    )
    for penalty in penalties:
        expected = penalty()
        with torch.no_grad():
            value = penalty()
        assert not value.requires_grad
        assert torch.equal(value, expected.detach())


# --- bad inputs -------------------------------------------------------------------------------


def test_critics_must_give_one_value_for_each_image():
    real = torch.rand(3, 3)
    for penalty in (gradient_penalty, sobolev_constraint):
        with pytest.raises(ValueError, match=r"^critic: 2 outputs are not allowed"):
            penalty(FlatCritic(2).float(), real, real)
        with pytest.raises(ValueError, match=r"^critic: shape \(3, 3, 1\) is not allowed"):
            penalty(lambda x: x[..., None], real, real)
    coupled = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    for penalty in (
        lambda: gradient_penalty(coupled, real, real),
        lambda: sobolev_constraint(coupled, real, real),
        lambda: witness_penalty(Gaussian(1.0), coupled, real, real),
    ):
        with pytest.raises(ValueError, match=r"^critic: layer '1' is a BatchNorm1d"):
            penalty()


def test_images_must_be_of_one_shape():
    with pytest.raises(ValueError, match=r"^fake: images of shape \(2,\) are not .* \(3,\)"):
        gradient_penalty(lambda x: x.sum(1), torch.ones(4, 3), torch.ones(4, 2))


def test_some_activations_are_needed():
    with pytest.raises(ValueError, match=r"^activations: \[\] is not allowed"):
        activation_penalty([])


def test_zero_centred_penalty_is_the_mean_squared_slope():
    critic, images = ConvCritic(1), noise(4, 2, 6, 6)
    terms = []
    for image in images:
        image = image.requires_grad_()
        (slope,) = torch.autograd.grad(critic(image[None]).sum(), image, create_graph=True)
        terms.append(slope.square().sum())
    expected, weights = sum(terms) / len(terms), list(critic.parameters())
    actual = zero_centred_penalty(critic, images)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    slopes = (torch.autograd.grad(p, weights, materialize_grads=True) for p in (actual, expected))
    for found, slope in zip(*slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-12)


def test_zero_centred_penalty_is_of_one_output():
    with pytest.raises(ValueError, match=r"^critic: 3 outputs are not allowed"):
        zero_centred_penalty(nn.Linear(2, 3), torch.ones(4, 2))
    with pytest.raises(ValueError, match="couples the images"):
        zero_centred_penalty(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), torch.ones(4, 2))
