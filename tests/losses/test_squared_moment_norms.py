import pytest
import torch
import torch.nn.functional as F
from moment_oracles import noise, per_image_moments, randomized, relative_error
from torch import nn
from torch.nn.utils import parametrizations

from lightning_igm.losses.moments import (
    check_moment_network,
    mean_moments,
    moment_statistics,
    squared_moment_norms,
)
from lightning_igm.networks import AllConvCritic, DCGANCritic, HiddenMomentCritic


class Flat(nn.Module):
    """A linear layer on everything, of any size, without a hidden cost."""

    def __init__(self, body, image_shape):
        super().__init__()
        self.body = body
        features = body(torch.zeros(1, *image_shape)).numel()
        self.output = nn.Linear(features, 1)

    def forward(self, images):
        return self.output(self.body(images).flatten(1)).squeeze(1)


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, images):
        return images.permute(self.order)


def conv_critic(*layers, channels=4, size=6):
    """A tanh convolution in front makes the layer's input depend on parameters."""
    body = nn.Sequential(nn.Conv2d(3, channels, 1), nn.Tanh(), *layers, nn.LeakyReLU(0.2))
    return Flat(body, (3, size, size)), (3, size, size)


CONVOLUTIONS = {
    "kernel 1": {"kernel_size": 1},
    "kernel 1, stride 2": {"kernel_size": 1, "stride": 2},
    "kernel 3": {"kernel_size": 3},
    "kernel 3, no bias": {"kernel_size": 3, "bias": False},
    "kernel 3, padding 1": {"kernel_size": 3, "padding": 1},
    "kernel 3, padding 2, stride 4": {"kernel_size": 3, "padding": 2, "stride": 4},
    "kernel 4, padding 1, stride 2": {"kernel_size": 4, "padding": 1, "stride": 2},
    "kernel 4, stride 4": {"kernel_size": 4, "stride": 4, "padding": 1, "bias": False},
    "kernel 5, padding 2, stride 2": {"kernel_size": 5, "padding": 2, "stride": 2},
    "kernel 3x2, stride 1x2, padding 0x1": {
        "kernel_size": (3, 2),
        "stride": (1, 2),
        "padding": (0, 1),
    },
    "valid": {"kernel_size": 3, "padding": "valid"},
    "same, odd": {"kernel_size": 5, "padding": "same"},
    "same, even": {"kernel_size": 4, "padding": "same"},
    "same, even, dilated": {"kernel_size": (2, 4), "padding": "same", "dilation": (3, 1)},
    "dilation 2": {"kernel_size": 3, "dilation": 2, "padding": 1},
    "dilation 1x2, stride 2": {"kernel_size": 3, "dilation": (1, 2), "padding": 2, "stride": 2},
    "groups 2": {"kernel_size": 3, "groups": 2, "padding": 1},
    "groups 2, stride 2, no bias": {"kernel_size": 3, "groups": 2, "stride": 2, "bias": False},
    "depthwise": {"kernel_size": 3, "groups": 4},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 4, "padding": 1, "padding_mode": "replicate", "stride": 2},
    "circular": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
}


def networks():
    for name, arguments in CONVOLUTIONS.items():
        yield name, lambda a=arguments: conv_critic(nn.Conv2d(4, 4, **a))
    yield (
        "asymmetric zero padding",
        lambda: conv_critic(nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(4, 4, 4)),
    )
    # Many channels on few positions are cheaper by pairs of positions, few on many are not.
    yield "few positions", lambda: conv_critic(nn.Conv2d(9, 8, 3), channels=9, size=4)
    yield "one position", lambda: conv_critic(nn.Conv2d(6, 8, 4), channels=6, size=4)
    yield "many positions", lambda: conv_critic(nn.Conv2d(2, 2, 2), channels=2, size=9)
    yield (
        "grouped, few positions",
        lambda: conv_critic(nn.Conv2d(12, 16, 3, groups=2), channels=12, size=4),
    )
    yield "linear", lambda: (Flat(nn.Sequential(nn.Linear(5, 7), nn.Tanh()), (5,)), (5,))
    yield (
        "linear without bias",
        lambda: (Flat(nn.Sequential(nn.Linear(5, 7, bias=False), nn.Tanh()), (5,)), (5,)),
    )
    yield (
        "linear at every position",
        lambda: (Flat(nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)), (6, 5)), (6, 5)),
    )
    yield (
        "linear at few positions",
        lambda: (Flat(nn.Sequential(nn.Linear(9, 8), nn.Tanh()), (2, 9)), (2, 9)),
    )
    yield "linear with channels last", lambda: conv_critic(Permute(0, 2, 3, 1), nn.Linear(4, 3))


def real_critics():
    yield "dcgan", lambda: DCGANCritic(image_size=8, width=3, hidden_dim=5)
    yield "dcgan 28", lambda: DCGANCritic(image_size=28, width=2, hidden_dim=4)
    yield "dcgan stride 4", lambda: DCGANCritic(image_size=16, width=2, stride4=True, hidden_dim=4)
    yield "all conv", lambda: AllConvCritic(image_size=28, width=2)
    yield "hidden moments", lambda: HiddenMomentCritic(image_size=8, width=8)


def with_shape(make):
    critic = make()
    return critic, critic.image_shape


CASES = dict(networks()) | {name: lambda m=make: with_shape(m) for name, make in real_critics()}

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    critic, shape = CASES[request.param]()
    return randomized(critic, seed=sum(map(ord, request.param))), noise(3, *shape)


def gradient(value, critic):
    gradients = torch.autograd.grad(
        value, list(critic.parameters()), create_graph=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def test_norms_are_those_of_every_images_own_gradient(case):
    critic, images = case
    expected = per_image_moments(critic, images).square().sum(1)
    norms = squared_moment_norms(critic, images)
    assert relative_error(norms, expected) < 1e-10
    assert norms.mean() >= mean_moments(critic, images).square().sum()


def test_gradient_of_the_penalty_is_that_through_every_images_own_gradient(case):
    critic, images = case
    k = sum(parameter.numel() for parameter in critic.parameters())
    penalty = (squared_moment_norms(critic, images).mean() / k - 1).square()
    reference = (per_image_moments(critic, images).square().sum(1).mean() / k - 1).square()
    actual, expected = gradient(penalty, critic), gradient(reference, critic)
    assert expected.norm() > 0
    assert relative_error(actual, expected) < 1e-10


def test_second_derivatives_of_the_norms(case):
    critic, images = case
    k = sum(parameter.numel() for parameter in critic.parameters())
    direction = noise(k, seed=3)
    norms = squared_moment_norms(critic, images)
    reference = per_image_moments(critic, images).square().sum(1)
    weights = noise(len(images), seed=4)
    actual = gradient(gradient((weights * norms).sum(), critic).dot(direction), critic)
    expected = gradient(gradient((weights * reference).sum(), critic).dot(direction), critic)
    assert expected.norm() > 0
    assert relative_error(actual, expected) < 1e-10


def test_derivatives_of_the_norms_in_the_images(case):
    critic, images = case
    images.requires_grad_()
    weights = noise(len(images), seed=4)
    norms = (weights * squared_moment_norms(critic, images)).sum()
    reference = (weights * per_image_moments(critic, images).square().sum(1)).sum()
    (actual,) = torch.autograd.grad(norms, images, create_graph=True)
    (expected,) = torch.autograd.grad(reference, images, create_graph=True)
    assert expected.norm() > 0
    assert relative_error(actual, expected) < 1e-10
    # Mixed derivatives, in the images and then in the parameters.
    direction = noise(*images.shape, seed=5)
    actual, expected = (gradient((g * direction).sum(), critic) for g in (actual, expected))
    assert relative_error(actual, expected) < 1e-10


@pytest.mark.parametrize("size", range(3, 10))
@pytest.mark.parametrize("groups", [1, 3])
def test_the_cheaper_of_two_sums_is_the_same_number(size, groups):
    """The norm is a sum over pairs of positions or over weights, by which is cheaper."""
    critic, shape = conv_critic(nn.Conv2d(6, 9, 3, groups=groups), channels=6, size=size)
    images = noise(2, *shape)
    randomized(critic)
    expected = per_image_moments(critic, images).square().sum(1)
    assert relative_error(squared_moment_norms(critic, images), expected) < 1e-10


@pytest.mark.parametrize("seed", range(12))
def test_random_critics(seed):
    draw = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[torch.randint(len(choices), (), generator=draw)]

    layers, channels = [], 2
    for _ in range(3):
        groups = pick(1, 2)
        layers += [
            nn.ZeroPad2d([pick(0, 1, 2) for _ in range(4)]),
            nn.Conv2d(
                channels,
                width := 2 * pick(1, 2, 3),
                (pick(1, 2, 3), pick(1, 3)),
                stride=(pick(1, 2), pick(1, 2)),
                padding=(pick(0, 1, 2), pick(1, 2)),
                dilation=(pick(1, 2), pick(1, 2)),
                groups=groups,
                bias=pick(True, False),
                padding_mode=pick("zeros", "zeros", "replicate"),
            ),
            pick(nn.LeakyReLU(0.2), nn.Tanh(), nn.Softplus()),
        ]
        channels = width
    critic = randomized(Flat(nn.Sequential(*layers), (2, 9, 8)), seed)
    images = noise(3, 2, 9, 8, seed=seed)
    reference = per_image_moments(critic, images).square().sum(1)
    norms = squared_moment_norms(critic, images)
    assert relative_error(norms, reference) < 1e-10
    actual, expected = (gradient(value.sum(), critic) for value in (norms, reference))
    assert relative_error(actual, expected) < 1e-10


def test_an_image_alone_has_the_norm_that_it_has_in_a_batch():
    critic = randomized(DCGANCritic(image_size=8, width=3, hidden_dim=5))
    images = noise(4, 3, 8, 8)
    alone = torch.cat([squared_moment_norms(critic, image) for image in images.split(1)])
    assert relative_error(squared_moment_norms(critic, images), alone) < 1e-12


# --- the penalty ------------------------------------------------------------------------------


def mean_squared_moment(critic, images):
    k = sum(parameter.numel() for parameter in critic.parameters())
    return squared_moment_norms(critic, images).mean() / k


@pytest.mark.parametrize("target", [0.4, 1.0, 2.5])
def test_a_step_on_the_penalty_brings_the_mean_squared_moment_towards_one(target):
    critic = randomized(DCGANCritic(image_size=8, width=3, hidden_dim=5))
    images = 0.5 * noise(4, 3, 8, 8)
    last = critic.layers[-1].weight
    with torch.no_grad():
        # As a function of a factor c on the last weights the value is a + b c^2.
        total, weights = mean_squared_moment(critic, images), last.clone()
        last.zero_()
        constant = mean_squared_moment(critic, images)
        last.copy_(weights * ((target - constant) / (total - constant)).sqrt())
    before = mean_squared_moment(critic, images)
    assert before.item() == pytest.approx(target, rel=1e-10)
    penalty = (before - 1).square()
    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(penalty, parameters, materialize_grads=True)
    if target == 1:
        assert penalty.item() == pytest.approx(0, abs=1e-18)
        assert max(g.abs().max() for g in gradients) < 1e-8
        return
    with torch.no_grad():
        for parameter, g in zip(parameters, gradients, strict=True):
            parameter -= 1e-4 * g
    after = mean_squared_moment(critic, images)
    assert abs(after - 1) < abs(before - 1)
    assert (after - 1) * (before - 1) > 0


# --- critics that have no such norms ----------------------------------------------------------


class LayerTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.square, self.output = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, images):
        return self.output(self.square(self.square(images))).squeeze(1)


class SharedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.output(self.second(self.first(images))).squeeze(1)


class WeightOutsideItsLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.output = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, images):
        return self.output(images @ self.first.weight).squeeze(1)


class BiasOutsideItsLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.output = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, images):
        return self.output(F.linear(images, self.first.weight) + self.first.bias).squeeze(1)


class WeightInsideAndOutsideItsLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.output = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, images):
        return self.output(self.first(images)).squeeze(1) + self.first.weight.sum()


class RowsInTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.output = nn.Linear(2, 3), nn.Linear(6, 1)

    def forward(self, images):
        return self.output(self.rows(images.reshape(-1, 2)).reshape(-1, 6)).squeeze(1)


class BareParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.output, self.scale = nn.Linear(4, 1), nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * self.output(images).squeeze(1)


class InPlaceAddition(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.output = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, images):
        hidden = self.first(images)
        hidden += 1
        return self.output(hidden).squeeze(1)


def frozen():
    critic = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    critic[0].weight.requires_grad_(False)
    return critic


NOT_MOMENT_NETWORKS = {
    "batch norm 1d": (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)),
        "'0'.*BatchNorm1d",
    ),
    "batch norm 2d": (lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.BatchNorm2d(1)), "BatchNorm2d"),
    "batch norm without parameters": (
        lambda: nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1)),
        "'0'.*BatchNorm1d",
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.1)), "'1'.*Dropout.*p=0.1"),
    "dropout 2d": (lambda: nn.Sequential(nn.Dropout2d(), nn.Conv2d(4, 1, 1)), "Dropout2d"),
    "alpha dropout": (lambda: nn.Sequential(nn.AlphaDropout(), nn.Linear(4, 1)), "AlphaDropout"),
    "transposed convolution": (lambda: nn.ConvTranspose2d(3, 1, 2), "'weight'.*ConvTranspose2d"),
    "convolution 1d": (lambda: nn.Sequential(nn.Conv1d(3, 1, 2)), "'0.weight'.*Conv1d"),
    "layer norm": (
        lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 1)),
        "'0.weight'.*LayerNorm",
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(4, 1)), "'0.weight'.*Embedding"),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 1), nn.PReLU()), "'1.weight'.*PReLU"),
    "bare parameter": (BareParameter, "'scale'.*BareParameter"),
    "spectral norm": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 1))),
        "'0.parametrizations.weight.original'",
    ),
    "frozen parameter": (frozen, "'0.weight'.*frozen"),
}

NOT_ONE_CALL_PER_LAYER = {
    "layer twice": (LayerTwice, "'square.weight' is used 2 times"),
    "weight of two layers": (SharedWeight, "'first.weight' is used 2 times"),
    "weight outside its layer": (WeightOutsideItsLayer, "'first.weight'"),
    "bias outside its layer": (BiasOutsideItsLayer, "'first.bias'"),
    "weight inside and outside its layer": (WeightInsideAndOutsideItsLayer, "'first.weight'"),
    "rows folded into the batch": (RowsInTheBatch, "'rows.weight' sees 6 rows for 3 images"),
    "in-place activation": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.2, inplace=True), nn.Linear(4, 1)),
        "in-place.*'0.weight'",
    ),
    "in-place addition": (InPlaceAddition, "in-place.*'first.weight'"),
    "in-place activation of the logit": (
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0), nn.ReLU(inplace=True)),
        "in-place.*'0.weight'",
    ),
}


@pytest.mark.parametrize("name", NOT_MOMENT_NETWORKS)
def test_a_critic_that_is_no_moment_network_is_named(name):
    make, message = NOT_MOMENT_NETWORKS[name]
    critic = make()
    with pytest.raises(ValueError, match=message) as error:
        check_moment_network(critic)
    assert "\n" not in str(error.value)
    for function in (squared_moment_norms, moment_statistics):
        with pytest.raises(ValueError, match=message):
            function(critic, torch.ones(3, 4))


@pytest.mark.parametrize("name", NOT_ONE_CALL_PER_LAYER)
def test_a_critic_that_hides_a_use_of_a_parameter_is_named(name):
    make, message = NOT_ONE_CALL_PER_LAYER[name]
    critic = make()
    check_moment_network(critic)
    for function in (squared_moment_norms, moment_statistics):
        with pytest.raises(ValueError, match=message) as error:
            function(critic, torch.ones(3, 4))
        assert "\n" not in str(error.value)


def test_layers_without_parameters_and_dropout_at_zero_are_allowed():
    critic = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.InstanceNorm2d(2),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.Linear(8, 1),
    )
    randomized(critic)
    images = noise(3, 1, 6, 6)
    expected = per_image_moments(critic, images).square().sum(1)
    assert relative_error(squared_moment_norms(critic, images), expected) < 1e-10


def test_a_layer_that_is_not_used_has_no_moments():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.output, self.unused = nn.Linear(4, 1), nn.Linear(4, 3)

        def forward(self, images):
            return self.output(images).squeeze(1)

    critic, images = Unused(), torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    assert squared_moment_norms(critic, images).tolist() == [15.0]
    assert mean_moments(critic, images).tolist() == [1, 2, 3, 0, 1] + 15 * [0]
