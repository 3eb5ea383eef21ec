"""The MMD GANs and what they are judged against: losses by hand, and what updates do."""

import pytest
import torch
from tiny_models import copied, fit, tiny, tiny_critic
from torch import nn

from lightning_igm import (
    GCMMDGAN,
    MMDGAN,
    SMMDGAN,
    SNGAN,
    SWGAN,
    WGANGP,
    CramerGAN,
    SobolevGAN,
)
from lightning_igm.losses.kernels import Distance, Gaussian, Linear
from lightning_igm.networks import spectral_norm

METHODS = {
    "mmd": (MMDGAN, {}),
    "mmd-gp-l2": (MMDGAN, {"gradient_penalty": 1.0, "activation_penalty": 1.0}),
    "smmd": (SMMDGAN, {}),
    "smmd-paper": (SMMDGAN, {"scaling": "paper", "lam": 0.5}),
    "smmd-values": (SMMDGAN, {"scaling": "value_and_grad"}),
    "swgan": (SWGAN, {}),
    "gcmmd": (GCMMDGAN, {}),
    "wgan-gp": (WGANGP, {}),
    "sobolev": (SobolevGAN, {"rho": 1e-3}),
    "cramer": (CramerGAN, {"penalty_weight": 0.1}),
}
METHODS |= {f"smmd-{mu}": (SMMDGAN, {"mu": mu}) for mu in ("fake", "interp", "mix", "noise")}
each_method = pytest.mark.parametrize(("kind", "settings"), METHODS.values(), ids=METHODS)


class Parabola(nn.Module):
    """phi(x) = x_1^2 + w x_2, with w = 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, images):
        return images[:, 0] ** 2 + self.weight * images[:, 1]


REAL = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
FAKE = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (MMDGAN, {}, -0.2934037402),
        (MMDGAN, {"estimator": "biased"}, 0.0446403087),
        (SMMDGAN, {}, -0.0106049545),
        (SMMDGAN, {"scaling": "paper", "lam": 1.0}, -0.0628722301),
        (SWGAN, {}, -0.0120438229),
    ],
)
def test_losses_of_a_parabola(kind, settings, expected):
    model = tiny(kind, critic=Parabola(), **settings)
    critic_loss, generator_loss = (
        loss(REAL, FAKE).item() for loss in (model.critic_loss, model.generator_loss)
    )
    assert generator_loss == pytest.approx(expected, rel=1e-8)
    assert critic_loss == pytest.approx(-expected, rel=1e-8)


@pytest.mark.parametrize("kind", [SMMDGAN, SWGAN])
def test_the_scale_is_a_constant_to_the_generator_and_not_to_the_critic(kind):
    model = tiny(kind, critic=Parabola())
    fake, weight = FAKE.clone().requires_grad_(), model.critic.weight
    (generator_gradient,) = torch.autograd.grad(model.generator_loss(REAL, fake), fake)

    def objective(scale_of):
        model.critic.weight = nn.Parameter(scale_of)
        with torch.no_grad():
            return model.discrepancy(REAL, FAKE) * -1

    (critic_gradient,) = torch.autograd.grad(model.critic_loss(REAL, FAKE), weight)
    step = 1e-6
    difference = (objective(weight + step) - objective(weight - step)) / (2 * step)
    assert critic_gradient.item() == pytest.approx(difference.item(), rel=1e-6)

    model.critic.weight = weight
    with torch.no_grad():
        _, scale = (model.features_and_scale if kind is SMMDGAN else model.mean_and_scale)(
            *([REAL, FAKE] if kind is SMMDGAN else [REAL])
        )
    plain = MMDGAN if kind is SMMDGAN else WGANGP
    other = tiny(plain, critic=model.critic)
    (gradient,) = torch.autograd.grad(other.generator_loss(REAL, fake), fake)
    factor = scale if kind is SMMDGAN else scale.sqrt()
    torch.testing.assert_close(generator_gradient, factor * gradient, rtol=1e-10, atol=1e-12)


class Scaled(nn.Module):
    """f(x) = <w, x>; a linear critic whose gradient is w everywhere."""

    def __init__(self, *weights):
        super().__init__()
        self.head = nn.Linear(len(weights), 1, dtype=torch.float64)
        self.head.weight.data = torch.tensor([weights], dtype=torch.float64)
        self.head.bias.data.zero_()

    def forward(self, images):
        return self.head(images).squeeze(1)


def test_wgan_gp_of_a_linear_critic():
    model = tiny(WGANGP, critic=Scaled(3.0, 4.0))
    expected = (model.critic(FAKE) - model.critic(REAL)).mean() + 10 * (5 - 1) ** 2
    assert model.critic_loss(REAL, FAKE).item() == pytest.approx(expected.item(), rel=1e-10)
    model.penalty_weight = 0.0
    assert model.critic_loss(REAL, FAKE).item() == pytest.approx(expected.item() - 160, rel=1e-8)


def test_sobolev_multiplier_grows_by_rho_omega_each_critic_step():
    # ||w||^2 = 3, so Omega = 2; with rho = .1 the multiplier's part of the loss is .2, then .6.
    critic = Scaled(1.0, 1.0, 1.0)
    model = tiny(SobolevGAN, critic=critic, rho=0.1, weight_decay=0.0, last_weight_decay=0.0)
    images = torch.zeros(2, 3, dtype=torch.float64)
    parts = []
    model.generate = lambda n: images[:n]
    model.update = lambda player, loss: parts.append(loss.item())
    for _ in range(2):
        model.critic_step(images)
    assert parts == pytest.approx([0.2, 0.6])
    assert model.multiplier.item() == pytest.approx(0.4)


def test_sobolev_decay_is_stronger_on_the_last_layer():
    model = tiny(SobolevGAN, rho=0.1, weight_decay=1.0, last_weight_decay=100.0)
    *others, weight, bias = model.critic.parameters()
    expected = sum(p.square().sum() for p in others) + 100 * sum(
        p.square().sum() for p in (weight, bias)
    )
    torch.testing.assert_close(model._decay(), expected)


def test_sobolev_multiplier_is_trained_and_saved():
    model = tiny(SobolevGAN, rho=0.1, critic_steps=2)
    fit(model, max_steps=2)
    assert model.multiplier.item() != 0
    assert "multiplier" in model.state_dict()


@each_method
def test_training_moves_both_players_and_stays_finite(kind, settings):
    model = tiny(kind, critic_steps=1, **settings)
    before = copied(model)
    fit(model, max_steps=2)
    after = copied(model)
    for player in ("generator.", "critic."):
        names = [n for n in before if n.startswith(player) and before[n].is_floating_point()]
        assert any(not torch.equal(before[n], after[n]) for n in names)
    assert all(value.isfinite().all() for value in after.values())


# Scales at points that come from the fakes are constants by definition, not by arithmetic.
SMOOTH = [name for name in METHODS if name not in ("smmd-fake", "smmd-interp", "smmd-mix")]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_generators_gradient_matches_finite_differences(name):
    kind, settings = METHODS[name]
    torch.manual_seed(0)
    model = tiny(kind, **settings).double()
    model.generator.eval()
    draw = torch.Generator().manual_seed(0)
    real = torch.rand(4, 3, 8, 8, generator=draw, dtype=torch.float64)
    latent = torch.randn(4, model.latent_dim, generator=draw, dtype=torch.float64)
    weight = next(model.generator.parameters())

    def loss():
        model.noise.manual_seed(1)
        return model.generator_loss(real, model(latent))

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
    step = 1e-5 / direction.norm()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            values.append(loss().item())
            weight -= sign * step * direction
    slope = (values[0] - values[1]) / (2 * step.item())
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_random_vectors_stand_in_for_the_exact_jacobian():
    torch.manual_seed(0)
    real, fake = torch.rand(2, 16, 3, 8, 8)
    exact = tiny(SMMDGAN, critic=tiny_critic(out_dim=3))
    estimated = tiny(SMMDGAN, critic=exact.critic, jacobian_probes=4)
    complexity = 1 / exact.features_and_scale(real, fake)[1]
    draws = torch.stack([1 / estimated.features_and_scale(real, fake)[1] for _ in range(100)])
    assert draws.std() > 0
    assert (draws.mean() - complexity).abs() < 4 * draws.std() / 10
    fit(estimated, max_steps=1)
    assert estimated.latest["critic_loss"].isfinite()


@pytest.mark.parametrize("name", ["smmd", "gcmmd", "mmd-gp-l2", "cramer"])
def test_several_features(name):
    kind, settings = METHODS[name]
    model = tiny(kind, critic=tiny_critic(out_dim=3), **settings)
    fit(model, max_steps=1)
    assert model.latest["critic_loss"].isfinite()


@pytest.mark.parametrize("name", ["smmd", "swgan", "wgan-gp"])
@pytest.mark.parametrize("scale", ["learnable", "fixed"])
def test_over_spectrally_parametrized_critics(name, scale):
    kind, settings = METHODS[name]
    critic = spectral_norm(tiny_critic(), scale)
    before = {
        key: value for key, value in copied(critic).items() if key.endswith(".u") and len(value) > 1
    }
    fit(tiny(kind, critic=critic, critic_steps=1, **settings), max_steps=2)
    assert before
    assert all(not torch.equal(critic.state_dict()[key], value) for key, value in before.items())


def test_sn_gan_wants_a_spectrally_parametrized_critic():
    with pytest.raises(ValueError, match="critic: a DCGANCritic without spectral normalization"):
        tiny(SNGAN)
    model = tiny(SNGAN, critic=spectral_norm(tiny_critic(), "fixed"))
    ones = torch.ones(4)
    model.critic.forward = lambda images: images
    assert model.critic_loss(ones, -ones).item() == pytest.approx(0.626523, rel=1e-5)
    assert model.generator_loss(ones, -ones).item() == pytest.approx(1.313262, rel=1e-6)


@pytest.mark.parametrize("kind", [MMDGAN, SMMDGAN, SWGAN, GCMMDGAN])
def test_every_update_sees_a_batch_of_its_own(kind):
    model = tiny(kind, critic_steps=2)
    seen = []
    critic_step, generator_step = model.critic_step, model.generator_step
    model.critic_step = lambda real: (seen.append(real.sum().item()), critic_step(real))
    model.generator_step = lambda real: (seen.append(real.sum().item()), generator_step(real))
    fit(model, max_steps=1)
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SMMDGAN, {"kernel": Distance()}, r"kernel: Distance\(\) is not allowed"),
        (GCMMDGAN, {"kernel": Distance()}, r"kernel: Distance\(\) is not allowed"),
        (SMMDGAN, {"coefficient": 0.0}, "coefficient: 0.0 is not allowed"),
        (SMMDGAN, {"jacobian_probes": 0}, "jacobian_probes: 0 is not allowed"),
        (SMMDGAN, {"lam": -1.0}, "lam: -1.0 is not allowed"),
        (SMMDGAN, {"mu": "uniform"}, "mu: 'uniform' is not allowed"),
        (SMMDGAN, {"scaling": "eq7"}, "scaling: 'eq7' is not allowed"),
        (GCMMDGAN, {"lam": 0.0}, "lam: 0.0 is not allowed"),
        (GCMMDGAN, {"rank": 0}, "rank: 0 is not allowed"),
        (SWGAN, {"coefficient": -1.0}, "coefficient: -1.0 is not allowed"),
        (MMDGAN, {"gradient_penalty": -1.0}, "gradient_penalty: -1.0 is not allowed"),
        (MMDGAN, {"estimator": "median"}, "estimator: 'median' is not allowed"),
        (SobolevGAN, {"rho": 0.0}, "rho: 0.0 is not allowed"),
        (WGANGP, {"penalty_weight": -1.0}, "penalty_weight: -1.0 is not allowed"),
    ],
)
def test_bad_values(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(kind, **settings)


def test_swgan_wants_one_output():
    model = tiny(SWGAN, critic=tiny_critic(out_dim=2))
    with pytest.raises(ValueError, match="critic: 2 outputs are not allowed"):
        fit(model, max_steps=1)


def test_a_linear_kernel_makes_the_squared_wasserstein_objective():
    model = tiny(MMDGAN, critic=Scaled(1.0, -2.0), kernel=Linear(), estimator="biased")
    difference = (model.critic(REAL) - model.critic(FAKE)).mean()
    torch.testing.assert_close(model.discrepancy(REAL, FAKE), difference.square())
    assert tiny(MMDGAN).kernel.bandwidth == Gaussian().bandwidth == 1.0
