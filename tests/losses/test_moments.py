import pytest
import torch
from moment_oracles import (
    GOLDEN_FAKE,
    GOLDEN_REAL,
    GoldenCritic,
    noise,
    per_image_moments,
    randomized,
    relative_error,
)
from torch import nn
from torch.func import functional_call

from lightning_igm.losses.adversarial import logistic_critic_loss
from lightning_igm.losses.moments import (
    logits_and_squared_norms,
    mean_moments,
    moment_statistics,
    squared_moment_norms,
)
from lightning_igm.networks import AllConvCritic, DCGANCritic, DCGANGenerator, HiddenMomentCritic

CRITICS = {
    "dcgan": lambda: DCGANCritic(image_size=8, width=3, hidden_dim=5),
    "dcgan without hidden layer": lambda: DCGANCritic(image_size=8, width=3, hidden_dim=None),
    "dcgan 4x4": lambda: DCGANCritic(image_size=16, width=2, hidden_dim=5, kernel_size=4),
    "dcgan stride 4": lambda: DCGANCritic(image_size=16, width=2, hidden_dim=5, stride4=True),
    "dcgan 28": lambda: DCGANCritic(image_size=28, width=2, hidden_dim=5),
    "all conv": lambda: AllConvCritic(image_size=28, width=2),
    "all conv same": lambda: AllConvCritic(image_size=8, width=2, same_padding_everywhere=True),
    "hidden moments": lambda: HiddenMomentCritic(image_size=8, width=4),
}


@pytest.fixture(params=CRITICS)
def critic(request):
    torch.manual_seed(0)
    return randomized(CRITICS[request.param]())


def images_for(critic, n=4, seed=1):
    return noise(n, *critic.image_shape, seed=seed)


def parameter_vector(critic):
    return torch.cat([parameter.detach().flatten() for parameter in critic.parameters()])


# --- the golden net ---------------------------------------------------------------------------


def test_golden_moments_and_norms():
    critic = GoldenCritic()
    first, second = GOLDEN_REAL.split(1)
    expected = [0.2, 0.4, -2, -4, 0.2, -2, -0.2, 1, 1], [3, 1, -6, -2, 1, -2, 2, 5, 1]
    assert mean_moments(critic, first).tolist() == pytest.approx(expected[0], rel=1e-12)
    assert mean_moments(critic, second).tolist() == pytest.approx(expected[1], rel=1e-12)
    norms = squared_moment_norms(critic, GOLDEN_REAL)
    assert norms.tolist() == pytest.approx([26.28, 85], rel=1e-12)
    ratio = norms.mean().item() / 9
    assert ratio == pytest.approx(6.1822222, rel=1e-7)
    assert (ratio - 1) ** 2 == pytest.approx(26.8554272, rel=1e-7)
    # The squared norm of the mean is another number; a penalty on it would be another method.
    assert mean_moments(critic, GOLDEN_REAL).square().sum().item() == pytest.approx(43.22)


def test_golden_critic_loss_and_gradient():
    critic = GoldenCritic()
    real_logits, norms = logits_and_squared_norms(critic, GOLDEN_REAL)
    fake_logits = critic(GOLDEN_FAKE)
    assert real_logits.tolist() == pytest.approx([-1.7, -7.5])
    assert fake_logits.tolist() == pytest.approx([-0.5, 0.7])
    classification = logistic_critic_loss(real_logits, fake_logits)
    assert classification.item() == pytest.approx(5.4728010, rel=1e-7)
    loss = classification + 0.1 * (norms.mean() / 9 - 1).square()
    assert loss.item() == pytest.approx(8.1583437, rel=1e-7)
    loss.backward()
    assert critic.hidden.weight.grad.flatten().tolist() == pytest.approx(
        [-0.70859743, -0.38090363, 5.30890363, 3.36300259], abs=1e-8
    )
    assert critic.hidden.bias.grad.tolist() == pytest.approx([-0.10297340, 2.02476670], abs=1e-8)
    assert critic.output.weight.grad[0].tolist() == pytest.approx(
        [0.50146176, -6.71489065], abs=1e-8
    )
    assert critic.output.bias.grad.tolist() == pytest.approx([-0.39962676], abs=1e-8)


def test_golden_generator_loss_and_gradient():
    critic, fake = GoldenCritic(), GOLDEN_FAKE.clone().requires_grad_()
    data = mean_moments(critic, GOLDEN_REAL).detach()
    assert data.tolist() == pytest.approx([1.6, 0.7, -4, -3, 0.6, -2, 0.9, 3, 1])
    mean = mean_moments(critic, fake)
    assert mean.tolist() == pytest.approx([0.5, 0.1, -1, -0.2, 0.6, -1.2, 0.4, 0.4, 1])
    loss = (mean - data).square().sum() / 2
    assert loss.item() == pytest.approx(13.03)
    (gradient,) = torch.autograd.grad(loss, fake)
    assert gradient.flatten().tolist() == pytest.approx([-6.4, -2.85, -1.28, -0.57])


def test_golden_two_batch_loss_and_gradient():
    critic, fake = GoldenCritic(), GOLDEN_FAKE.clone().requires_grad_()
    data = mean_moments(critic, GOLDEN_REAL).detach()
    first, second = (mean_moments(critic, batch) - data for batch in fake.split(1))
    loss = first.dot(second) / 2
    assert loss.item() == pytest.approx(11.62)
    (gradient,) = torch.autograd.grad(loss, fake)
    assert gradient.flatten().tolist() == pytest.approx([-8.55, -2.3, -0.85, -0.68])


# --- mean moments -----------------------------------------------------------------------------


def test_mean_moments_are_the_mean_of_every_images_moments(critic):
    images = images_for(critic)
    expected = per_image_moments(critic, images).mean(0)
    assert relative_error(mean_moments(critic, images), expected) < 1e-12


def test_repeating_the_batch_changes_nothing(critic):
    images = images_for(critic)
    once, twice = mean_moments(critic, images), mean_moments(critic, torch.cat([images, images]))
    assert relative_error(twice, once) < 1e-12


def test_a_batch_is_the_weighted_mean_of_its_parts(critic):
    images = images_for(critic, n=5)
    parts = (3 * mean_moments(critic, images[:3]) + 2 * mean_moments(critic, images[3:])) / 5
    assert relative_error(parts, mean_moments(critic, images)) < 1e-12


def test_moment_of_the_last_bias_is_one(critic):
    assert mean_moments(critic, images_for(critic))[-1].item() == pytest.approx(1, rel=1e-12)


def test_moments_of_leaky_relu_units_obey_their_linear_relations(critic):
    """<w_in, g_in> + b g_b = <w_out, g_out> for every hidden channel, f being homogeneous in it."""
    layers = [m for m in critic.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    sizes = [p.numel() for layer in layers for p in (layer.weight, layer.bias)]
    moments = iter(mean_moments(critic, images_for(critic)).detach().split(sizes))
    gradients = [(next(moments).view_as(layer.weight), next(moments)) for layer in layers]
    for before, after, (g_in, g_bias), (g_out, _) in zip(
        layers, layers[1:], gradients, gradients[1:], strict=False
    ):
        channels = before.weight.shape[0]
        into = (before.weight * g_in).flatten(1).sum(1) + before.bias * g_bias
        # A linear layer on flattened maps holds all positions of a channel side by side.
        out = (after.weight * g_out).reshape(after.weight.shape[0], channels, -1).sum((0, 2))
        assert into.abs().min() > 0
        assert relative_error(into, out) < 1e-10


def test_moments_are_differentiable_in_the_images_by_gradcheck():
    critic = randomized(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1), nn.Flatten(0))
    )
    images = noise(2, 1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mean_moments(critic, x), images)
    assert torch.autograd.gradgradcheck(lambda x: mean_moments(critic, x), images)
    assert torch.autograd.gradcheck(lambda x: squared_moment_norms(critic, x), images)


# --- the generator's gradient -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_generator_gradient_is_that_of_a_jacobian_vector_product(critic):
    _, size, _ = critic.image_shape
    generator = DCGANGenerator(latent_dim=3, image_size=max(size, 8), width=2).double()
    latent, data = noise(4, 3), mean_moments(critic, images_for(critic, seed=7)).detach()
    loss = (mean_moments(critic, generator(latent)) - data).square().sum() / 2
    actual = torch.autograd.grad(loss, list(generator.parameters()), retain_graph=True)

    # The direction is a constant; the product of it and the moments is a derivative along it.
    direction = mean_moments(critic, generator(latent)).detach() - data
    assert loss.item() == pytest.approx(direction.square().sum().item() / 2, rel=1e-12)
    parameters = {name: p.detach() for name, p in critic.named_parameters()}
    parts = direction.split([p.numel() for p in parameters.values()])
    tangents = {
        name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)
    }
    images = generator(latent)
    _, product = torch.func.jvp(
        lambda phi: functional_call(critic, phi, (images,)).mean(), (parameters,), (tangents,)
    )
    expected = torch.autograd.grad(product, list(generator.parameters()))

    actual, expected = (torch.cat([g.flatten() for g in grads]) for grads in (actual, expected))
    assert expected.norm() > 0
    assert relative_error(actual, expected) < 1e-10


def test_the_generators_gradient_leaves_the_critic_alone(critic):
    before, images = parameter_vector(critic), images_for(critic).requires_grad_()
    torch.autograd.grad(mean_moments(critic, images).square().sum(), images)
    torch.autograd.grad(squared_moment_norms(critic, images).sum(), images)
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert torch.equal(parameter_vector(critic), before)


# --- hidden units and pixels ------------------------------------------------------------------


def hidden_units(critic, images):
    """Outputs of all leaky ReLUs, ``(N, number of hidden units)``."""
    outputs = []
    hooks = [
        module.register_forward_hook(lambda *call: outputs.append(call[2].flatten(1)))
        for module in critic.modules()
        if isinstance(module, nn.LeakyReLU)
    ]
    critic(images)
    for hook in hooks:
        hook.remove()
    return torch.cat(outputs, dim=1)


def test_features_follow_the_gradient_moments_weighted(critic):
    images = images_for(critic)
    moments, hidden = mean_moments(critic, images), hidden_units(critic, images)
    both = mean_moments(critic, images, hidden_weight=0.3, pixel_weight=2.0)
    expected = torch.cat([moments, 2 * images.mean(0).flatten(), 0.3 * hidden.mean(0)])
    assert relative_error(both, expected) < 1e-12
    only_hidden = mean_moments(critic, images, hidden_weight=0.3)
    assert relative_error(only_hidden, torch.cat([moments, 0.3 * hidden.mean(0)])) < 1e-12
    without = mean_moments(critic, images, hidden_weight=0.0, pixel_weight=0.0)
    assert torch.equal(without, moments)


def test_statistics_are_the_mean_and_the_norms_of_all_moments(critic):
    images = images_for(critic)
    features = torch.cat(
        [
            per_image_moments(critic, images),
            2 * images.flatten(1),
            0.3 * hidden_units(critic, images),
        ],
        dim=1,
    )
    mean, norms = moment_statistics(critic, images, hidden_weight=0.3, pixel_weight=2.0)
    assert relative_error(mean, features.mean(0)) < 1e-12
    assert relative_error(norms, features.square().sum(1)) < 1e-10
    mean, norms = moment_statistics(critic, images)
    assert torch.equal(mean, mean_moments(critic, images))
    assert torch.equal(norms, squared_moment_norms(critic, images))


def test_hidden_units_and_gradients_each_reach_the_images(critic):
    images = images_for(critic).requires_grad_()
    k = sum(parameter.numel() for parameter in critic.parameters())
    moments = mean_moments(critic, images, hidden_weight=0.5)
    (through_gradients,) = torch.autograd.grad(
        moments[:k].square().sum(), images, retain_graph=True
    )
    (through_hidden,) = torch.autograd.grad(moments[k:].square().sum(), images)
    expected = torch.autograd.grad(
        (0.5 * hidden_units(critic, images).mean(0)).square().sum(), images
    )[0]
    assert through_gradients.abs().min(0).values.max() > 0
    assert relative_error(through_hidden, expected) < 1e-12


@pytest.mark.parametrize(
    "activation",
    [
        "ReLU",
        "LeakyReLU",
        "Tanh",
        "Sigmoid",
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "SiLU",
        "Softplus",
        "Mish",
    ],
)
def test_hidden_units_are_the_outputs_of_any_usual_activation(activation):
    critic = randomized(nn.Sequential(nn.Linear(3, 4), getattr(nn, activation)(), nn.Linear(4, 1)))
    images = noise(5, 3)
    moments = mean_moments(critic, images, hidden_weight=1.0)
    assert relative_error(moments[-4:], critic[:2](images).mean(0)) < 1e-12


# --- modes ------------------------------------------------------------------------------------


def test_without_grad_the_value_is_the_same_and_has_no_graph(critic):
    images = images_for(critic).requires_grad_()
    weights = {"hidden_weight": 0.3, "pixel_weight": 2.0}

    def everything():
        statistics = moment_statistics(critic, images, **weights)
        return (
            mean_moments(critic, images),
            mean_moments(critic, images, **weights),
            *statistics,
            *logits_and_squared_norms(critic, images),
        )

    expected = everything()
    assert all(value.requires_grad for value in expected)
    with torch.no_grad():
        values = everything()
        assert not torch.is_grad_enabled()
    for value, reference in zip(values, expected, strict=True):
        assert torch.equal(value, reference)
        assert not value.requires_grad


def test_autocast_around_it_changes_nothing(critic):
    critic.float()
    images = images_for(critic).float()
    expected = *moment_statistics(critic, images), *logits_and_squared_norms(critic, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = *moment_statistics(critic, images), *logits_and_squared_norms(critic, images)
    for value, reference in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, reference)


def test_images_of_bfloat16_are_taken_at_full_precision(critic):
    """A generator under autocast makes them."""
    critic.float()
    images = images_for(critic).bfloat16()
    values = *moment_statistics(critic, images), *logits_and_squared_norms(critic, images)
    exact = images.float()
    expected = *moment_statistics(critic, exact), *logits_and_squared_norms(critic, exact)
    for value, reference in zip(values, expected, strict=True):
        assert torch.equal(value, reference)


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.Tanh()])
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_moments_for_images_only_have_the_same_gradient_in_images(activation, weight):
    torch.manual_seed(0)
    critic = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), activation, nn.Flatten(), nn.Linear(64, 5), activation),
        *(nn.Linear(5, 1), nn.Flatten(0)),
    ).double()
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weights = {"hidden_weight": weight, "pixel_weight": weight}
    full = mean_moments(critic, images, **weights)
    only = mean_moments(critic, images, images_only=True, **weights)
    direction = torch.randn_like(full)
    expected, gradient = (torch.autograd.grad(m @ direction, images)[0] for m in (full, only))
    torch.testing.assert_close(only, full, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_moments_for_images_only_have_no_gradient_in_the_critic():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 1))
    moments = mean_moments(critic, torch.rand(2, 12, requires_grad=True), images_only=True)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(moments.sum(), list(critic.parameters()))


class BatchMean(nn.Module):
    """Takes the batch's mean away, in any mode."""

    couples_images = True

    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize("images_only", [False, True])
@pytest.mark.parametrize(
    ("layer", "fixed"),
    [
        (lambda: nn.BatchNorm1d(3), True),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), False),
        (lambda: nn.SyncBatchNorm(3), True),
        (BatchMean, False),
        (lambda: nn.Dropout(0.5), True),
    ],
)
def test_a_mean_of_moments_of_images_that_are_coupled_is_refused(layer, fixed, images_only):
    critic = nn.Sequential(nn.Linear(2, 3), layer(), nn.Linear(3, 1)).double()
    images = torch.rand(5, 2, dtype=torch.float64)
    message = r"^critic: layer '1' is a \w+( with p=0.5)?, which (couples|makes the moments random)"
    with pytest.raises(ValueError, match=message):
        mean_moments(critic, images, images_only=images_only)
    critic.eval()
    if not fixed:
        with pytest.raises(ValueError, match=message):
            mean_moments(critic, images, images_only=images_only)
        return
    each = [mean_moments(critic, image[None], images_only=images_only) for image in images]
    mean = mean_moments(critic, images, images_only=images_only)
    torch.testing.assert_close(mean, torch.stack(each).mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("critic", "images", "message"),
    [
        (nn.Linear(2, 3), torch.rand(4, 2), r"^critic: outputs of shape \(4, 3\) are not allowed"),
        (nn.Linear(2, 1), torch.rand(0, 2), "^images: there are none"),
        (nn.Flatten(), torch.rand(4, 1), "^critic: Flatten has no parameters"),
        (nn.Linear(2, 1).requires_grad_(False), torch.rand(4, 2), r"^critic: .*'weight' is frozen"),
    ],
)
def test_what_has_no_moments_is_refused_in_one_line(critic, images, message):
    with pytest.raises(ValueError, match=message):
        mean_moments(critic, images)
