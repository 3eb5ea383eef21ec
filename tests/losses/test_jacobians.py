import pytest
import torch
from kernel_oracles import (
    ConvCritic,
    gradient,
    noise,
    points,
    relative_error,
    squared_jacobian_norms_by_loops,
)
from torch import nn
from torch.nn.utils import parametrizations

from lightning_igm.losses.jacobians import (
    features_and_jacobians,
    features_and_squared_jacobian_norms,
    squared_jacobian_norms,
)
from lightning_igm.networks import AllConvCritic, DCGANCritic


def small_dcgan():
    return DCGANCritic(image_size=8, channels=2, width=4, hidden_dim=6)


def spectral():
    critic = ConvCritic(3)
    critic.layers[2] = parametrizations.spectral_norm(critic.layers[2])
    return critic


def layers(*modules):
    return nn.Sequential(*modules)


# Critic, its features, and the images' shape.
CRITICS = {
    "one output": (lambda: ConvCritic(1), 1, (2, 6, 6)),
    "three outputs": (lambda: ConvCritic(3), 3, (2, 6, 6)),
    "more outputs than inputs": (lambda: layers(nn.Linear(2, 5), nn.Tanh()), 5, (2,)),
    "dcgan": (small_dcgan, 1, (2, 8, 8)),
    "spectral norm": (spectral, 3, (2, 6, 6)),
    "in place": (
        lambda: layers(nn.Flatten(), nn.Linear(8, 4), nn.LeakyReLU(0.2, inplace=True)),
        4,
        (2, 2, 2),
    ),
    "pooled residuals": (
        lambda: layers(nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(), nn.SiLU()),
        16,
        (2, 4, 4),
    ),
    "upsampled": (
        lambda: layers(nn.Upsample(scale_factor=2), nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten()),
        8,
        (1, 2, 2),
    ),
    "layer norm": (
        lambda: layers(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3)),
        3,
        (1, 2, 2),
    ),
    "frozen batch norm": (
        lambda: layers(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten()).eval(),
        3,
        (2, 2, 2),
    ),
}


@pytest.fixture(params=CRITICS)
def case(request):
    torch.manual_seed(0)
    make, features, shape = CRITICS[request.param]
    critic = make().double()
    critic(noise(1, *shape))
    return critic.eval(), features, noise(4, *shape)


def parameters_of(critic):
    return [p for p in critic.parameters() if p.requires_grad]


def test_norms_are_those_of_one_backward_pass_for_each_output(case):
    critic, features, images = case
    expected = squared_jacobian_norms_by_loops(critic, images, features)
    assert relative_error(squared_jacobian_norms(critic, images), expected) < 1e-12
    both = features_and_squared_jacobian_norms(critic, images)
    assert torch.equal(both[0], critic(images).reshape(4, features))
    assert relative_error(both[1], expected) < 1e-12
    jacobians = features_and_jacobians(critic, images)[1]
    assert jacobians.shape == (4, features, images[0].numel())
    assert relative_error(jacobians.square().sum((1, 2)), expected) < 1e-12


def test_gradients_are_those_through_one_backward_pass_for_each_output(case):
    critic, features, images = case
    weights = noise(4, seed=3)
    outputs, norms = features_and_squared_jacobian_norms(critic, images)
    total = (weights * norms).sum() + outputs.square().sum()
    expected = (weights * squared_jacobian_norms_by_loops(critic, images, features)).sum()
    expected = expected + critic(images).square().sum()
    parameters = parameters_of(critic)
    assert relative_error(gradient(total, parameters), gradient(expected, parameters)) < 1e-11


def test_derivatives_in_the_images_and_mixed_ones():
    critic, images = ConvCritic(3), noise(3, 2, 6, 6).requires_grad_()
    (actual,) = torch.autograd.grad(
        squared_jacobian_norms(critic, images).sum(), images, create_graph=True
    )
    (expected,) = torch.autograd.grad(
        squared_jacobian_norms_by_loops(critic, images, 3).sum(), images, create_graph=True
    )
    assert relative_error(actual, expected) < 1e-12
    direction = noise(*images.shape, seed=2)
    mixed = [gradient((g * direction).sum(), critic.parameters()) for g in (actual, expected)]
    assert relative_error(*mixed) < 1e-12


def test_pixels_and_outputs_are_summed_not_averaged():
    weight = points([1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 4.0])
    norms = squared_jacobian_norms(lambda x: x.flatten(1) @ weight.T, noise(3, 1, 2, 2))
    assert norms.tolist() == [25, 25, 25]


def test_jacobians_are_matrices_of_outputs_by_pixels():
    weight = noise(3, 4)
    features, jacobians = features_and_jacobians(lambda x: x.flatten(1) @ weight.T, noise(2, 1, 4))
    assert features.shape == (2, 3)
    assert torch.equal(jacobians, weight.expand(2, 3, 4))


def test_a_critic_that_ignores_its_images_has_zero_norms():
    bias = nn.Parameter(torch.ones(()))
    images = torch.ones(2, 3)
    norms = squared_jacobian_norms(lambda x: x.detach().sum(1) * bias, images)
    assert norms.tolist() == [0, 0]


def test_images_and_their_flags_are_left_alone():
    images = noise(3, 2, 6, 6)
    norms = squared_jacobian_norms(ConvCritic(2), images)
    assert not images.requires_grad
    assert norms.requires_grad
    norms.sum().backward()
    assert images.grad is None


def test_without_gradients_only_values_are_computed():
    critic, images = ConvCritic(3), noise(3, 2, 6, 6)
    expected = features_and_squared_jacobian_norms(critic, images)
    with torch.no_grad():
        actual = features_and_squared_jacobian_norms(critic, images)
    for value, reference in zip(actual, expected, strict=True):
        assert not value.requires_grad
        assert torch.equal(value, reference.detach())


def test_one_forward_pass_is_enough():
    calls = []
    critic = ConvCritic(3)
    critic.register_forward_hook(lambda *_: calls.append(1))
    features_and_squared_jacobian_norms(critic, noise(3, 2, 6, 6))[1].sum().backward()
    assert calls == [1]


def test_fakes_in_half_precision_under_autocast_are_taken_in_the_weights_precision():
    critic, images = ConvCritic(3).float(), noise(3, 2, 6, 6).bfloat16()
    expected = features_and_squared_jacobian_norms(critic, images.float())
    with torch.autocast("cpu", torch.bfloat16):
        actual = features_and_squared_jacobian_norms(critic, images.requires_grad_())
    for value, reference in zip(actual, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, reference)
    (slopes,) = torch.autograd.grad(actual[1].sum(), images)
    assert slopes.dtype == torch.bfloat16
    assert slopes.any()


# --- the estimate -----------------------------------------------------------------------------


def test_the_estimate_is_unbiased_and_differentiable():
    critic, images = ConvCritic(3), noise(4, 2, 6, 6)
    draw = torch.Generator().manual_seed(0)
    exact = squared_jacobian_norms(critic, images)
    each = torch.stack(
        [squared_jacobian_norms(critic, images, probes=2, generator=draw) for _ in range(400)]
    ).detach()
    errors = (each.mean(0) - exact) / (each.std(0) / 20)
    assert errors.abs().max() < 4
    assert each.std(0).min() > 0
    many = squared_jacobian_norms(critic, images, probes=4000, generator=draw).mean()
    assert many.item() == pytest.approx(exact.mean().item(), rel=0.05)
    slopes = gradient(many, critic.parameters()), gradient(exact.mean(), critic.parameters())
    assert relative_error(*slopes) < 0.1


def test_the_estimate_is_exact_for_one_output():
    critic, images = ConvCritic(1), noise(4, 2, 6, 6)
    estimate = squared_jacobian_norms(critic, images, probes=1)
    assert relative_error(estimate, squared_jacobian_norms(critic, images)) < 1e-14


def test_each_image_has_signs_of_its_own_from_the_generator():
    weight = points([1.0, 0.0], [1.0, 1.0])
    images = torch.zeros(64, 2, dtype=torch.float64)

    def estimate(seed):
        generator = torch.Generator().manual_seed(seed)
        return squared_jacobian_norms(lambda x: x @ weight.T, images, probes=1, generator=generator)

    # (v_1 + v_2)^2 + v_2^2: 5 or 1, with the mean 3.
    assert set(estimate(0).tolist()) == {1, 5}
    assert torch.equal(estimate(0), estimate(0))
    assert not torch.equal(estimate(0), estimate(1))


# --- critics that do not fit ------------------------------------------------------------------


@pytest.mark.parametrize("tracked", [True, False])
def test_batch_normalization_couples_images(tracked):
    norm = nn.BatchNorm1d(3, track_running_stats=tracked)
    critic = nn.Sequential(nn.Linear(3, 3), norm)
    with pytest.raises(ValueError, match=r"^critic: layer '1' is a BatchNorm1d, which couples"):
        squared_jacobian_norms(critic, torch.ones(2, 3))
    if not tracked:
        with pytest.raises(ValueError, match="couples the images"):
            squared_jacobian_norms(critic.eval(), torch.ones(2, 3))


def test_outputs_must_be_features():
    images = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"^critic: shape \(2, 3, 4, 4\) is not allowed"):
        squared_jacobian_norms(lambda x: x, images)
    with pytest.raises(ValueError, match=r"^critic: outputs of shape \(3,\).* for 2 images"):
        squared_jacobian_norms(lambda x: x.sum((0, 2, 3)), images)


@pytest.mark.parametrize("probes", [0, -1])
def test_probes_are_counted(probes):
    with pytest.raises(ValueError, match=rf"^probes: {probes} is not allowed"):
        squared_jacobian_norms(lambda x: x, torch.ones(2, 3), probes=probes)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_many_outputs_of_the_librarys_critics_need_no_fallback():
    """No operation is missing its batched form, which torch would warn of."""
    critic = AllConvCritic(image_size=28, width=2)
    critic.layers[-1] = nn.Linear(critic.layers[-1].in_features, 5)
    images = torch.rand(2, 3, 28, 28)
    norms = squared_jacobian_norms(critic.layers, images)
    expected = squared_jacobian_norms_by_loops(critic.layers, images, 5)
    assert relative_error(norms, expected) < 1e-5
    norms.sum().backward()
