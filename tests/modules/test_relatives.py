"""Drifting models, R3GAN, repulsive MMD GAN, feature matching: losses by hand, what is kept."""

import math
from functools import partial

import pytest
import torch
from tiny_models import (
    NoiseImages,
    assert_equal,
    copied,
    fit,
    same,
    sgd,
    tiny,
    tiny_critic,
    tiny_trainer,
)
from tiny_models import tiny_generator as generator
from torch import nn

from lightning_igm import R3GAN, DriftingModel, FeatureMatching, RepulsiveMMDGAN
from lightning_igm.callbacks import ExactResume
from lightning_igm.losses.adversarial import relativistic_critic_loss
from lightning_igm.losses.drifting import drifting_loss
from lightning_igm.losses.feature_matching import frechet_loss, mean_and_variance_loss
from lightning_igm.losses.fields import MMDField, SinkhornField
from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.penalties import zero_centred_penalty
from lightning_igm.losses.repulsive import repulsive_critic_loss
from lightning_igm.networks import ImageStatistics, LayerFeatures

SHAPE = (3, 8, 8)


def images(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(6, *SHAPE, generator=draw, dtype=torch.float64)


REAL, FAKE = images(1), images(2)


def layers():
    return LayerFeatures(tiny_critic(seed=3, out_dim=2))


def drifting(**settings):
    return DriftingModel(generator(), generator_optimizer=sgd, **settings)


def matching(**settings):
    return FeatureMatching(generator(), generator_optimizer=sgd, **settings)


MODELS = {
    "drifting": drifting,
    "drifting, layers": lambda: drifting(features=layers(), temperatures=[0.2]),
    "drifting, sinkhorn": lambda: drifting(features=ImageStatistics([4]), field=SinkhornField(3)),
    "r3gan": lambda: tiny(R3GAN, last_penalty_weight=0.1, penalty_steps=3),
    "r3gan, fresh reals": lambda: tiny(R3GAN, fresh_reals=True, critic_steps=2),
    "repulsive": lambda: tiny(RepulsiveMMDGAN, critic=tiny_critic(out_dim=3)),
    "feature matching": lambda: matching(features=layers()),
    "feature matching, averages": lambda: matching(features=layers(), moving_average=0.1),
    "feature matching, covariance": lambda: matching(
        features=ImageStatistics(pixels=False), statistics="covariance"
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_run_goes_on_to_the_same_bits(make, tmp_path):
    path = tmp_path / "half.ckpt"
    straight = fit(make(), ExactResume(), max_steps=4)
    fit(make(), ExactResume(), max_steps=2).save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert {name.partition(".")[0] for name in checkpoint["state_dict"]} <= {"generator", "critic"}
    resumed = tiny_trainer(ExactResume(), max_steps=4)
    resumed.fit(make(), datamodule=NoiseImages(), ckpt_path=path)
    for name in ("state_dict", "training_state"):
        first, second = (getattr(run.lightning_module, name)() for run in (straight, resumed))
        assert_equal(dict(second), dict(first))


# --- drifting -------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_features():
    features = ImageStatistics([4])
    model = drifting(features=features, temperatures=(0.1, 0.5), field=MMDField())
    expected = sum(
        drifting_loss(x.flatten(1), y.flatten(1), temperatures=(0.1, 0.5), field=MMDField())
        for x, y in zip(features(FAKE), features(REAL), strict=True)
    )
    assert model.generator_loss(REAL, FAKE).item() == pytest.approx(expected.item(), rel=1e-12)
    assert model.latest["drift"] > 0


def test_features_are_the_images_themselves_by_default():
    expected = drifting_loss(FAKE.flatten(1), REAL.flatten(1))
    assert drifting().generator_loss(REAL, FAKE).item() == pytest.approx(expected.item(), rel=1e-12)


def test_an_encoder_does_not_train_and_the_checkpoint_has_its_name_alone():
    encoder = layers()
    before = copied(encoder)
    model = drifting(features=encoder)
    trainer = fit(model)
    assert trainer.global_step == 4
    assert same(before, copied(encoder))
    assert not encoder.training
    assert all(name.startswith("generator.") for name in model.state_dict())
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.generator.parameters()}


def test_a_run_goes_on_with_the_encoder_that_it_began_with():
    state = drifting(features=layers()).training_state()
    drifting(features=layers()).load_training_state(state)
    other = LayerFeatures(tiny_critic(seed=4, out_dim=2))
    for model in (drifting(features=other), drifting(), matching(features=other)):
        with pytest.raises(ValueError, match=r"^features: \S+ is not allowed; the checkpoint was"):
            model.load_training_state(state | {"statistics": "variance"})


def test_a_drifting_model_learns_a_point():
    class Point(nn.Module):
        latent_dim = 1

        def __init__(self):
            super().__init__()
            self.at = nn.Parameter(torch.zeros(2))

        def forward(self, latent):
            return self.at + 0.1 * latent

    model = DriftingModel(Point())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        real = torch.tensor([1.0, -2.0]) + 0.1 * torch.randn(20, 1)
        model.generator_loss(real, model.generator(torch.randn(20, 1))).backward()
        optimizer.step()
    assert (model.generator.at - torch.tensor([1.0, -2.0])).abs().max() < 0.5


# --- R3GAN ----------------------------------------------------------------------------------------


def test_losses_of_r3gan():
    model = tiny(R3GAN, penalty_weight=0.4).double()
    expected = relativistic_critic_loss(model.critic(REAL), model.critic(FAKE))
    for each in (REAL, FAKE):
        expected = expected + 0.2 * zero_centred_penalty(model.critic, each)
    assert model.critic_loss(REAL, FAKE).item() == pytest.approx(expected.item(), rel=1e-12)
    expected = relativistic_critic_loss(model.critic(FAKE), model.critic(REAL)).item()
    assert model.generator_loss(REAL, FAKE).item() == pytest.approx(expected, rel=1e-12)


def test_gamma_falls_by_half_a_cosine():
    model = tiny(R3GAN, penalty_weight=0.05, last_penalty_weight=0.005, penalty_steps=4)
    expected = [0.005 + 0.045 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [model.gamma(step) for step in range(4)] == pytest.approx(expected)
    assert model.gamma(1) == pytest.approx(0.04340990, abs=5e-9)
    assert model.gamma(2) == pytest.approx(0.0275)
    assert model.gamma(4) == model.gamma(100) == pytest.approx(0.005)
    assert tiny(R3GAN, penalty_weight=0.3).gamma(7) == 0.3


@pytest.mark.parametrize(("fresh", "batches"), [(False, 4), (True, 8)])
def test_fresh_reals_take_two_batches_for_a_step(fresh, batches):
    seen = []

    class Watched(R3GAN):
        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            super().training_step(batch, batch_idx)

    fit(tiny(Watched, fresh_reals=fresh), max_steps=4)
    assert len(seen) == batches


# --- repulsive MMD GAN ----------------------------------------------------------------------------


def test_losses_of_repulsive_mmd_gan():
    settings = {"lower": 0.01, "upper": 0.5, "bandwidth": 0.7}
    model = tiny(RepulsiveMMDGAN, critic=tiny_critic(out_dim=3), **settings).double()
    a, b = model.critic(REAL), model.critic(FAKE)
    expected = repulsive_critic_loss(a, b, **settings).item()
    assert model.critic_loss(REAL, FAKE).item() == pytest.approx(expected, rel=1e-12)
    expected = mmd2(Gaussian(0.7), a, b, estimator="u_statistic").item()
    assert model.generator_loss(REAL, FAKE).item() == pytest.approx(expected, rel=1e-12)
    attractive = tiny(RepulsiveMMDGAN, critic=tiny_critic(out_dim=3), weight=1.0, bounded=False)
    attractive = attractive.double()
    found = attractive.critic_loss(REAL, FAKE).item()
    assert found == pytest.approx(-attractive.generator_loss(REAL, FAKE).item(), rel=1e-12)


# --- feature matching -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statistics", "loss"), [("variance", mean_and_variance_loss), ("covariance", frechet_loss)]
)
def test_moments_are_those_of_the_whole_training_set(statistics, loss):
    features = ImageStatistics(pixels=False)
    model = matching(features=features, statistics=statistics).double()
    fit(model, data=(data := NoiseImages()), max_steps=1, precision="64-true")
    (found,) = model.layer_moments
    (values,) = features(data.to_float(data.train_data).double())
    second = values.var(0) if statistics == "variance" else values.mT.cov()
    torch.testing.assert_close(found[0], values.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], second, rtol=1e-4, atol=1e-9)
    (fake,) = features(FAKE)
    model = matching(features=features, statistics=statistics)
    model.layer_moments = [found]
    expected = loss(fake, values.mean(0), second).item()
    assert model.generator_loss(REAL, FAKE).item() == pytest.approx(expected, rel=1e-5)


def test_averages_follow_by_adam():
    """Two steps of 1e-5 with one batch, and the gradient of the loss that is left with w = 1."""
    model = matching(moving_average=1e-5)
    x, y = FAKE[:, 0, 0, :3], REAL[:, 0, 0, :3] + 1
    model.layer_moments = [(y.mean(0), y.var(0) + 3)]
    x = x.clone().requires_grad_()
    model.generator_loss(y, x)
    model.generator_loss(y, x)
    for w in model.averages:
        assert w.tolist() == pytest.approx([2e-5] * 3, abs=1e-9)
    for w in model.averages:
        w.fill_(1)
    model._follow = lambda gaps: None
    (slope,) = torch.autograd.grad(model.generator_loss(y, x), x)
    torch.testing.assert_close(slope, -1 / 6 - 2 / 5 * (x - x.mean(0)).detach())


def test_moments_of_other_statistics_are_made_anew():
    state = matching().training_state() | {"layer_moments": [(torch.ones(1), torch.ones(1))]}
    for statistics, kept in (("variance", True), ("covariance", False)):
        model = matching(statistics=statistics)
        model.load_training_state(state)
        assert (model.layer_moments is not None) == kept


def test_a_loss_without_moments_says_so():
    with pytest.raises(RuntimeError, match="layer_moments are not computed"):
        matching().generator_loss(REAL, FAKE)


# --- mistakes -------------------------------------------------------------------------------------

COUPLED = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False))
MISTAKES = {
    "no temperatures": (partial(drifting, temperatures=[]), r"^temperatures: \[\] is not allowed"),
    "temperature": (partial(drifting, temperatures=[0.0]), r"^temperatures: 0.0 is not allowed"),
    "encoder": (partial(drifting, features=COUPLED), r"^features: layer '1' is a BatchNorm1d"),
    "encoder, too": (partial(matching, features=COUPLED), r"^features: layer '1' is a BatchNorm1d"),
    "statistics": (partial(matching, statistics="skew"), r"^statistics: 'skew' is not allowed"),
    "average": (partial(matching, moving_average=0.0), r"^moving_average: 0.0 is not allowed"),
    "average of covariance": (
        partial(matching, moving_average=0.1, statistics="covariance"),
        r"^moving_average: 0.1 is not allowed with statistics 'covariance'",
    ),
    "gamma": (partial(tiny, R3GAN, penalty_weight=-1.0), r"^penalty_weight: -1.0 is not allowed"),
    "last gamma": (
        partial(tiny, R3GAN, last_penalty_weight=-1.0),
        r"^last_penalty_weight: -1.0 is not allowed",
    ),
    "gamma's steps": (partial(tiny, R3GAN, penalty_steps=0), r"^penalty_steps: 0 is not allowed"),
    "coupled critic": (
        partial(tiny, R3GAN, critic=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192))),
        r"^critic: layer '1' is a BatchNorm1d",
    ),
    "weight": (partial(tiny, RepulsiveMMDGAN, weight=2.0), r"^weight: 2.0 is not allowed"),
    "bounds": (partial(tiny, RepulsiveMMDGAN, lower=5.0), r"^lower: 5.0 is not allowed"),
    "bandwidth": (partial(tiny, RepulsiveMMDGAN, bandwidth=0.0), r"^bandwidth: 0.0 is not"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    mistake, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as error:
        mistake()
    assert "\n" not in str(error.value)


def test_an_encoder_gives_a_row_for_each_image():
    model = drifting(features=nn.Flatten(0))
    with pytest.raises(ValueError, match=r"^features: Flatten gives .* which is not allowed"):
        model.generator_loss(REAL, FAKE)
