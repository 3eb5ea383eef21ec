"""GRAM-nets: two gradients before either step, by hand and by autograd; options, logs, resume."""

import copy
import csv

import pytest
import torch
from lightning.pytorch import LightningDataModule
from test_resume import assert_equal, stop_before
from tiny_models import NoiseImages, copied, fit, same, tiny, tiny_critic, tiny_generator
from torch import nn
from torch.utils.data import DataLoader

from lightning_igm import GRAMNet
from lightning_igm.cli import main
from lightning_igm.losses.ratio import density_ratio, median_bandwidths
from lightning_igm.modules import NonFiniteLossError, gram_net, ratio_diagnostics
from lightning_igm.networks import spectral_norm
from lightning_igm.runs.folder import MetricsCSV

Q = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
P = torch.tensor([[0.5], [1.5], [2.5], [3.0]], dtype=torch.float64)


class Points(LightningDataModule):
    """Four points, at every step."""

    def train_dataloader(self):
        return DataLoader(P, batch_size=4)

    val_dataloader = train_dataloader


class Shift(nn.Module):
    """G(z) = z + gamma; whatever z is, it is these three."""

    latent_dim = 1

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, latent):
        return Q + self.gamma


class Stretch(nn.Module):
    """f(x) = theta x."""

    def __init__(self, theta=1.0):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, points):
        return self.theta * points


def rate(lr):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def line(theta=1.0, **settings):
    """Theta moves at rate 0.01 and gamma at 0.1."""
    settings = {"generator_optimizer": rate(0.1), "critic_optimizer": rate(0.01)} | settings
    return GRAMNet(Shift(), Stretch(theta), latent_dim=1, **settings)


def small(**settings):
    """Float64, 3 features."""
    critic = tiny_critic(out_dim=3)
    return tiny(GRAMNet, tiny_generator(batch_norm=False), critic, **settings).double()


def tiny_gram(**settings):
    return tiny(GRAMNet, critic=tiny_critic(out_dim=3), **({"sigmas": [20.0]} | settings))


def images(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=draw, dtype=torch.float64)


# --- the update -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "gamma"), [("simultaneous", 0.03855859), ("sequential", 0.03863176)]
)
def test_one_step_of_a_line(update, gamma, monkeypatch):
    monkeypatch.setattr(gram_net, "mmd_root", lambda mmd2: mmd2.sqrt())
    model = line(update=update)
    assert fit(model, max_steps=1, data=Points()).global_step == 1
    assert model.critic.theta.item() == pytest.approx(0.98182964, abs=1e-8)
    assert model.generator.gamma.item() == pytest.approx(gamma, abs=1e-8)


def by_hand(model, real, latent, update):
    """What the weights are after one step, from losses taken by themselves."""

    def kernel(a, b):
        squared = (a[:, None] - b[None]).square().sum(-1)
        return torch.stack([(-squared / (2 * sigma**2)).exp() for sigma in (0.5, 2.0)])

    def grams(fake):
        q, p = model.critic(fake), model.critic(real)
        return kernel(q, q), kernel(q, p), kernel(p, p)

    def projector_loss():
        qq, qp, _ = grams(model.generator(latent).detach())
        ratio = torch.linalg.solve(
            qq + 1e-3 * torch.eye(len(latent), dtype=torch.float64), qp.sum(2)
        ).mean(0)
        return -(ratio - 1).square().mean() - ratio.mean()

    def matching_loss():
        qq, qp, pp = grams(model.generator(latent))
        return ((qq - 2 * qp + pp).mean((1, 2)).sum() + 1e-6).sqrt()

    def step(player, gradients):
        with torch.no_grad():
            for parameter, gradient in zip(player.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient

    of_critic = torch.autograd.grad(projector_loss(), list(model.critic.parameters()))
    if update == "sequential":
        step(model.critic, of_critic)
    of_generator = torch.autograd.grad(matching_loss(), list(model.generator.parameters()))
    if update == "simultaneous":
        step(model.critic, of_critic)
    step(model.generator, of_generator)


@pytest.mark.parametrize("update", ["simultaneous", "sequential"])
def test_each_player_moves_by_the_gradient_of_its_own_loss(update, monkeypatch):
    model = small(sigmas=[0.5, 2.0], update=update)
    latent = torch.randn(20, model.latent_dim, dtype=torch.float64)
    monkeypatch.setattr(model, "training_latent", lambda n: latent)
    expected, before, seen = copy.deepcopy(model), copied(model), []
    images_of = model.images_of
    monkeypatch.setattr(model, "images_of", lambda batch: seen.append(images_of(batch)) or seen[0])
    fit(model, max_steps=1, data=NoiseImages(batch_size=20))
    by_hand(expected, seen[0], latent, update)
    for name, value in copied(model).items():
        assert not torch.equal(value, before[name]), name
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-9, atol=1e-11)


def test_the_losses_alone_are_those_of_the_step():
    model = line(sigmas=[1.0, 2.0])
    fake = model.generator(None)
    assert model.critic_loss(P, fake).item() == pytest.approx(-2.1686483182, abs=1e-9)
    assert model.generator_loss(P, fake).item() == pytest.approx(0.2931712960**0.5, abs=1e-5)
    plain = line(sigmas=[1.0, 2.0], mmd_root=False, regulariser="sum", regulariser_weight=1.0)
    assert plain.generator_loss(P, fake).item() == pytest.approx(0.2931712960, abs=1e-9)
    assert plain.critic_loss(P, fake).item() == pytest.approx(-4.0100450244, abs=1e-9)
    clipped = line(sigmas=[1.0, 2.0], regulariser="clip")
    assert clipped.critic_loss(P, fake).item() == pytest.approx(-0.9827558985, abs=1e-9)
    light = line(sigmas=[1.0], regulariser_weight=0.5)
    expected = -0.4722537883 - 0.5 * 0.8655080749
    assert light.critic_loss(P, fake).item() == pytest.approx(expected, abs=1e-9)


def test_fakes_without_gradient_leave_the_projectors_gradient():
    model = small()
    fake, parameters = model.generate(6), list(model.critic.parameters())
    with_graph, without = (
        torch.autograd.grad(model.critic_loss(images(5), f), parameters)
        for f in (fake, fake.detach())
    )
    for one, other in zip(with_graph, without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_autocast_changes_nothing():
    model = tiny_gram()
    real, fake = images(5).float(), images(6, seed=1).float()
    expected = model.critic_loss(real, fake), model.generator_loss(real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.critic_loss(real, fake), expected[0])
        assert torch.equal(model.generator_loss(real, fake), expected[1])


def test_identical_batches_are_finite():
    model = tiny_gram()
    fake = model.generate(6)
    for player in ("critic", "generator"):
        loss = getattr(model, f"{player}_loss")(fake.detach(), fake)
        parameters = list(getattr(model, player).parameters())
        for gradient in torch.autograd.grad(loss, parameters, materialize_grads=True):
            assert gradient.isfinite().all()


@pytest.mark.parametrize(("word", "factors"), [("median", 1), ("median5", 5)])
def test_median_bandwidths_are_those_of_the_batch(word, factors):
    model = line(sigmas=word)
    fake = 3 * model.generator(None)
    sigmas = median_bandwidths(fake, P, [1.0, 0.333, 0.2, 1 / 0.2, 1 / 0.333][:factors])
    ratio = density_ratio(fake, P, sigmas)
    expected = -(ratio - 1).square().mean() - ratio.mean()
    torch.testing.assert_close(model.critic_loss(P, fake), expected)


def test_bandwidths_may_be_variances():
    assert line(sigmas=[4.0, 9.0], bandwidth_is="variance").sigmas == [2.0, 3.0]
    assert line(sigmas=4).sigmas == [4.0]
    assert line(sigmas=(4.0, 9.0)).sigmas == [4.0, 9.0]


# --- what all methods do ----------------------------------------------------------------------

OPTIONS = {
    "as published": {},
    "in turn": {"update": "sequential"},
    "five bandwidths": {"sigmas": "median5"},
    "without root": {"mmd_root": False},
    "clip": {"regulariser": "clip"},
}


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_training_moves_both_players_once_per_batch(settings):
    model = tiny_gram(**settings)
    before, batches = copied(model), []
    model.images_of = lambda batch: batches.append(len(batch)) or GRAMNet.images_of(model, batch)
    assert fit(model, max_steps=3).global_step == len(batches) == 3
    after = copied(model)
    for name, value in after.items():
        assert value.isfinite().all()
        if name.endswith("weight"):
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(("update", "advances"), [("simultaneous", 2), ("sequential", 4)])
def test_spectral_norms_advance_once_per_update(update, advances, monkeypatch):
    advanced, advance = [], gram_net.advance_spectral_norms
    monkeypatch.setattr(
        gram_net, "advance_spectral_norms", lambda net: (advanced.append(net), advance(net))
    )
    critic = spectral_norm(tiny_critic(out_dim=3))
    before = copied(critic)
    fit(tiny(GRAMNet, critic=critic, update=update), max_steps=2)
    assert len(advanced) == advances
    moved = [key for key in before if key.endswith(".u") and len(before[key]) > 1]
    assert moved
    assert not any(torch.equal(copied(critic)[key], before[key]) for key in moved)


def test_gradients_are_clipped_and_schedules_step_once():
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    model = small(gradient_clip=1e-3, generator_scheduler=halving, critic_scheduler=halving)
    before = copied(model)
    trainer = fit(model, max_steps=1)
    for name, value in copied(model).items():
        assert (value - before[name]).norm() <= 0.05 * 1e-3 * (1 + 1e-6)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [0.025, 0.025]


def test_nan_features_stop_the_run_and_name_the_step():
    class Breaks(NoiseImages):
        def to_float(self, images):
            images = super().to_float(images)
            return images if self.trainer.global_step < 2 else images * float("nan")

    with pytest.raises(NonFiniteLossError, match="critic_loss is not finite at generator step 2"):
        fit(tiny_gram(), max_steps=5, data=Breaks())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigmas": []}, r"^sigmas: \[\] is not allowed"),
        ({"sigmas": [1.0, -1.0]}, r"^sigmas: -1.0 is not allowed; it must be above 0"),
        ({"sigmas": "mean"}, r"^sigmas: 'mean' is not allowed; it must be one of median, median5"),
        ({"bandwidth_is": "var"}, r"^bandwidth_is: 'var' is not allowed"),
        (
            {"sigmas": "median", "bandwidth_is": "variance"},
            r"^bandwidth_is: 'variance' .* 'median'",
        ),
        ({"jitter": 0.0}, r"^jitter: 0.0 is not allowed"),
        ({"regulariser": "relu"}, r"^regulariser: 'relu' is not allowed"),
        ({"regulariser_weight": -1.0}, r"^regulariser_weight: -1.0 is not allowed"),
        ({"update": "both"}, r"^update: 'both' is not allowed"),
    ],
)
def test_bad_values(settings, message):
    with pytest.raises(ValueError, match=message):
        line(**settings)


def test_an_iteration_is_one_step_of_each_player():
    assert line().critic_steps == 1
    with pytest.raises(TypeError, match="critic_steps"):
        line(critic_steps=5)


def test_a_batch_of_one_is_too_small():
    with pytest.raises(ValueError, match=r"^numerator: shape \(1, 1\) is not allowed"):
        line().critic_loss(P[:1], Q)


# --- logs -------------------------------------------------------------------------------------


def logged(tmp_path, model, data=None, **settings):
    """Rows of metrics.csv, by generator step."""
    logger = MetricsCSV(tmp_path)
    fit(model, data=data, logger=logger, **settings)
    logger.finalize("success")
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {int(row["step"]): {k: float(v) for k, v in row.items() if v} for row in rows}


def test_what_is_logged(tmp_path):
    model = line(theta=2.0, log_d_star=True)
    (row,) = logged(tmp_path, model, Points(), max_steps=1).values()
    q, p = 2 * Q, 2 * P
    ratio, raw = density_ratio(q, p, [1.0]), density_ratio(Q, P, [1.0])
    gram = (-(q - q.mT).square() / 2).exp() + 1e-3 * torch.eye(3)
    expected = {
        "critic_loss": (-(ratio - 1).square().mean() - ratio.mean()).item(),
        "pearson_divergence": (ratio - 1).square().mean().item(),
        "ratio_second_moment": ratio.square().mean().item(),
        "ratio_mean": ratio.mean().item(),
        "ratio_min": ratio.min().item(),
        "ratio_negative_share": (ratio < 0).double().mean().item(),
        "generator_loss": (row["mmd2"] + 1e-6) ** 0.5,
        "fake_feature_scale": (20 / 3) ** 0.5,
        "real_feature_scale": p.square().mean().sqrt().item(),
        "condition_number": torch.linalg.cond(gram).item(),
        "d_star": (raw - ratio).square().mean().item(),
        "jitter_escalations": 0.0,
    }
    assert row.keys() == expected.keys() | {"step", "mmd2"}
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-6), name


def test_the_condition_number_of_each_bandwidth_is_logged(tmp_path):
    (row,) = logged(tmp_path, line(sigmas=[1.0, 3.0]), Points(), max_steps=1).values()
    for number, sigma in enumerate((1.0, 3.0)):
        gram = (-(Q - Q.mT).square() / (2 * sigma**2)).exp() + 1e-3 * torch.eye(3)
        expected = torch.linalg.cond(gram).item()
        assert row[f"condition_number/{number}"] == pytest.approx(expected, rel=1e-6)
    assert row["condition_number"] == max(row["condition_number/0"], row["condition_number/1"])


def test_diagnostics_are_made_at_logged_steps_only_and_change_nothing(tmp_path, monkeypatch):
    made = []
    for name in ("condition_numbers", "ratio_error"):
        function = getattr(ratio_diagnostics, name)
        monkeypatch.setattr(
            ratio_diagnostics, name, lambda *a, f=function, n=name: (made.append(n), f(*a))[1]
        )

    def trained(folder, every, **settings):
        model = tiny_gram(**settings)
        data = NoiseImages(count=40)
        rows = logged(tmp_path / folder, model, data, max_steps=6, log_every_n_steps=every)
        return copied(model), rows

    plain, rows = trained("plain", 3, log_condition_number=False)
    assert list(rows) == [3, 6]
    assert made == []
    assert "condition_number" not in rows[3]
    often, rows = trained("often", 3, log_d_star=True)
    assert sorted(made) == ["condition_numbers"] * 2 + ["ratio_error"] * 2
    assert rows[3]["d_star"] != rows[6]["d_star"]
    seldom, _ = trained("seldom", 5, log_d_star=True)
    assert len(made) == 6
    assert same(plain, often)
    assert same(plain, seldom)


def test_jitter_escalations_add_up(monkeypatch):
    estimate = gram_net.estimate_ratio
    monkeypatch.setattr(gram_net, "estimate_ratio", lambda *a: (estimate(*a)[0], torch.tensor(2)))
    model = line()
    fit(model, max_steps=3, data=Points())
    assert model.latest["jitter_escalations"].item() == 6


def test_a_ratio_that_dies_is_reported_once(tmp_path):
    model = line(theta=1000.0, critic_optimizer=rate(0.0))
    with pytest.warns(UserWarning, match="The ratio has died at generator step 1: .*'median'") as w:
        logged(tmp_path, model, Points(), max_steps=3)
    assert sum("ratio has died" in str(warning.message) for warning in w) == 1


@pytest.mark.parametrize(("theta", "sigmas"), [(1.0, [1.0]), (1000.0, "median"), (1e-3, [1.0])])
def test_a_ratio_that_lives_is_not_reported(tmp_path, theta, sigmas):
    logged(tmp_path, line(theta=theta, sigmas=sigmas), Points(), max_steps=2)  # Or it is an error.


# --- resume -----------------------------------------------------------------------------------

CONFIG = """
trainer: {max_steps: 6, log_every_n_steps: 2, accelerator: cpu, enable_progress_bar: false,
  enable_model_summary: false}
model:
  class_path: GRAMNet
  init_args:
    sigmas: median5
    log_d_star: true
    generator: {class_path: DCGANGenerator,
      init_args: {latent_dim: 4, image_size: 16, width: 2, init: he}}
    critic: {class_path: DCGANCritic,
      init_args: {image_size: 16, width: 2, hidden_dim: 4, out_dim: 3, init: he}}
    generator_optimizer: {class_path: Adam, init_args: {lr: 0.01}}
    critic_optimizer: {class_path: Adam, init_args: {lr: 0.01}}
data: {class_path: tiny_models.NoiseImages, init_args: {batch_size: 4, size: 16}}
"""


def test_a_continued_run_is_the_same_run(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)

    def outcome(name, *more):
        folder = tmp_path / name
        main(["fit", "--config", str(config), "--run.dir", str(folder), *more])
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        kept = {k: state[k] for k in ("state_dict", "optimizer_states", "training_state")}
        return kept | {"metrics": (folder / "metrics.csv").read_text()}

    straight = outcome("straight")
    with pytest.raises(SystemExit):
        outcome("stopped", *stop_before(3))
    assert_equal(outcome("stopped", "--ckpt_path", "last"), straight)
