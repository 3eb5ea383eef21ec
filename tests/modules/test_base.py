"""What all methods share: the clock, updates of one player, sampling and checks."""

import csv
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from tiny_models import (
    LATENT_DIM,
    NoiseImages,
    copied,
    fit,
    same,
    tiny,
    tiny_critic,
    tiny_generator,
    tiny_trainer,
)
from torch import nn
from torch.utils.data import DataLoader

from lightning_igm.checks import supported_trainer
from lightning_igm.modules import GAN, AdversarialModule, ImplicitGenerativeModule
from lightning_igm.runs.folder import MetricsCSV


class CountingGAN(GAN):
    """Keeps the generator step at which each player was updated."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.updates = []
        self.batches = 0

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.batches += 1

    def update(self, player, loss):
        self.updates.append((player, self.trainer.global_step))
        super().update(player, loss)

    def steps_of(self, player):
        return [step for who, step in self.updates if who == player]


# --- one unit of time -------------------------------------------------------------------------


@pytest.mark.parametrize("critic_steps", [0, 1, 3])
def test_the_clock_counts_generator_steps_only(critic_steps):
    model = tiny(CountingGAN, critic_steps=critic_steps)
    trainer = fit(model, max_steps=4)
    assert trainer.global_step == 4
    assert model.steps_of("generator") == [0, 1, 2, 3]
    assert model.steps_of("critic") == [step for step in range(4) for _ in range(critic_steps)]
    # The generator steps on the batch of the last critic step.
    assert model.batches == 4 * max(critic_steps, 1)
    assert len(trainer.optimizers) == 2


def test_a_method_may_override_the_cadence():
    class Warmup(CountingGAN):
        def critic_steps_due(self):
            return 5 if self.global_step == 0 else self.global_step % 2

    model = tiny(Warmup)
    assert fit(model, max_steps=4).global_step == 4
    assert model.steps_of("critic") == [0, 0, 0, 0, 0, 1, 3]
    assert model.steps_of("generator") == [0, 1, 2, 3]


def test_a_method_may_override_the_training_step():
    class Simultaneous(CountingGAN):
        """Both players move on the same fakes, each from where it was."""

        def training_step(self, batch, batch_idx):
            fake = self.generate(batch.shape[0])
            losses = self.critic_loss(batch, fake.detach()), self.generator_loss(batch, fake)
            self.update("generator", losses[1])
            self.update("critic", losses[0])

    model = tiny(Simultaneous)
    before = copied(model)
    assert fit(model, max_steps=3).global_step == 3
    assert model.steps_of("critic") == [1, 2, 3]
    after = copied(model)
    assert not any(torch.equal(after[key], before[key]) for key in after)


def test_a_loss_of_the_user_trains_in_fifteen_lines():
    class LeastSquaresGAN(AdversarialModule):
        def critic_loss(self, real, fake):
            return (self.critic(real) - 1).square().mean() + self.critic(fake).square().mean()

        def generator_loss(self, real, fake):
            return (self.critic(fake) - 1).square().mean()

    model = tiny(LeastSquaresGAN, critic_steps=2)
    images = NoiseImages()
    images.setup()
    real = images.to_float(images.train_images)

    def loss():
        return model.critic_loss(real, model.sample(20, torch.Generator().manual_seed(0))).item()

    before, untrained = loss(), copied(model.generator)
    fit(model, max_steps=30)
    assert loss() < before
    assert not same(copied(model.generator), untrained)


def test_a_generator_without_a_critic_trains():
    class MeanMatching(ImplicitGenerativeModule):
        def generator_loss(self, real, fake):
            return (real.mean(0) - fake.mean(0)).square().mean()

    model = MeanMatching(tiny_generator(), latent_dim=LATENT_DIM)
    trainer = fit(model, max_steps=3)
    assert trainer.global_step == 3
    assert len(trainer.optimizers) == 1


def test_schedules_step_once_per_generator_step():
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    model = tiny(generator_scheduler=halving, critic_scheduler=halving, critic_steps=3)
    trainer = fit(model, max_steps=3)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([0.05 / 8, 0.05 / 8])


@pytest.mark.parametrize(("steps", "end"), [(3, "at 3"), (-1, "never")])
def test_a_cosine_schedule_that_ends_before_the_run_is_told(steps, end):
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=2)
    line = f"T_max: the schedule ends at step 2 and the run {end}; "
    with pytest.warns(match=line):
        fit(tiny(generator_scheduler=cosine), max_steps=steps, max_epochs=3)
    fit(tiny(generator_scheduler=cosine), max_steps=2)


def test_one_schedule_alone_is_of_its_own_player():
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    trainer = fit(tiny(critic_scheduler=halving), max_steps=2)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([0.05, 0.05 / 4])


def test_loggers_get_a_row_per_generator_step(tmp_path):
    fit(tiny(critic_steps=3), max_steps=4, logger=MetricsCSV(tmp_path), log_every_n_steps=2)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert all(float(row["generator_loss"]) > 0 and float(row["critic_loss"]) > 0 for row in rows)


def test_a_run_too_short_for_a_row_logs_its_last_step(tmp_path):
    trainer = fit(tiny(), max_steps=3, logger=MetricsCSV(tmp_path), log_every_n_steps=4)
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert int(row["step"]) == 3
    expected = float(trainer.lightning_module.latest["generator_loss"])
    assert float(row["generator_loss"]) == expected


@pytest.mark.parametrize("value", [0.1, 3, True, np.float32(0.5), torch.tensor([0.25])])
def test_numbers_and_tensors_of_one_are_logged(tmp_path, value):
    class Logging(GAN):
        def generator_loss(self, real, fake):
            self.log_training({"mine": value})
            return super().generator_loss(real, fake)

    fit(tiny(Logging), max_steps=2, logger=MetricsCSV(tmp_path), log_every_n_steps=1)
    with (tmp_path / "metrics.csv").open() as file:
        assert [float(row["mine"]) for row in csv.DictReader(file)] == [float(value)] * 2
    model = tiny()  # Without a trainer as well.
    model.log_training({"mine": value})
    assert model.latest["mine"].shape == ()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.ones(2), r"a Tensor of shape \(2,\)"),
        (torch.ones(0), r"a Tensor of shape \(0,\)"),
        (torch.tensor(1j), r"a Tensor of shape \(\)"),
        ("much", "a str"),
        ([0.5], "a list"),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_number_is_not_logged(model, value, kind):
    for log in (model.log_training, model.log_now):
        with pytest.raises(ValueError, match=f"^mine: {kind} is not allowed; .* a real number"):
            log({"mine": value})
    assert model.latest == {}


# --- updates ----------------------------------------------------------------------------------


def test_an_update_moves_one_player_by_its_own_gradient_and_leaves_no_gradient():
    class Watched(GAN):
        def update(self, player, loss):
            other = "critic" if player == "generator" else "generator"
            untouched = copied(getattr(self, other))
            network = getattr(self, player)
            parameters = list(network.parameters())
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            expected = [p - 0.05 * g for p, g in zip(parameters, gradients, strict=True)]
            super().update(player, loss)
            for parameter, value in zip(parameters, expected, strict=True):
                torch.testing.assert_close(parameter, value)
            assert same(copied(getattr(self, other)), untouched)
            assert all(parameter.grad is None for parameter in self.parameters())

    fit(tiny(Watched, critic_steps=2), max_steps=3)


def test_frozen_parameters_stay():
    generator = tiny_generator()
    frozen = generator.layers[0].weight.requires_grad_(False)
    before = frozen.clone()
    fit(tiny(generator=generator), max_steps=2)
    assert torch.equal(frozen, before)


def test_a_parameter_that_the_loss_does_not_reach_stays():
    critic = tiny_critic()
    critic.unused = nn.Linear(2, 2)
    before = copied(critic.unused)
    fit(tiny(critic=critic), max_steps=2)
    assert same(copied(critic.unused), before)


def test_the_generators_fakes_of_a_critic_step_carry_no_graph():
    class Watched(GAN):
        def critic_loss(self, real, fake):
            assert not fake.requires_grad
            return super().critic_loss(real, fake)

        def generator_loss(self, real, fake):
            assert fake.requires_grad
            return super().generator_loss(real, fake)

    fit(tiny(Watched), max_steps=2)


def test_a_run_is_a_function_of_its_seed():
    first, second = tiny(), tiny()
    fit(first)
    fit(second)
    assert same(copied(first), copied(second))


# --- sampling ---------------------------------------------------------------------------------


@pytest.fixture
def model():
    return tiny(
        generator=tiny_generator(image_size=16), critic=tiny_critic(image_size=16)
    )  # two levels, so that there is a batch normalization


def test_samples_have_the_datas_shape_and_range_and_no_graph(model):
    images = model.sample(5)
    assert images.shape == (5, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not images.requires_grad


def test_sampling_restores_the_mode_of_every_part(model):
    for mode in (True, False):
        model.train(mode)
        norm = next(m for m in model.generator.modules() if isinstance(m, nn.BatchNorm2d))
        norm.eval()
        before = [module.training for module in model.modules()]
        model.sample(2)
        assert [module.training for module in model.modules()] == before


def test_sampling_restores_the_modes_after_an_error(model):
    before = [module.training for module in model.modules()]
    model.generator.layers.append(nn.Unflatten(1, (7, 7)))
    before.append(True)
    with pytest.raises(RuntimeError):
        model.sample(2)
    assert all(module.training for module in model.generator.modules())


def test_sampling_leaves_batch_norm_statistics_alone(model):
    model.train()
    before = copied(model)
    model.sample(8)
    assert same(copied(model), before)


def test_samples_are_made_with_running_statistics(model):
    images = model.sample(4, torch.Generator().manual_seed(3))
    latent = model.sample_latent(4, torch.Generator().manual_seed(3))
    model.generator.eval()
    torch.testing.assert_close(images, torch.cat([model(z) for z in latent.split(1)]))


def test_a_given_source_of_noise_is_the_only_one(model):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = model.sample(3, torch.Generator().manual_seed(1))
    second = model.sample(3, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, model.sample(3, torch.Generator().manual_seed(2)))


def test_samples_during_training_do_not_change_the_run():
    class Sampling(GAN):
        def training_step(self, batch, batch_idx):
            self.sample(7)
            super().training_step(batch, batch_idx)

    plain, sampling = tiny(), tiny(Sampling)
    fit(plain)
    fit(sampling)
    assert same(copied(plain), copied(sampling))


@pytest.mark.parametrize(
    ("distribution", "mean", "variance", "largest"),
    [("normal", 0.0, 1.0, 6.0), ("uniform", 0.0, 1 / 3, 1.0), ("unit_uniform", 0.5, 1 / 12, 1.0)],
)
def test_latents_follow_their_distribution(distribution, mean, variance, largest):
    model = tiny(latent_distribution=distribution)
    latent = model.sample_latent(5000, torch.Generator().manual_seed(0))
    assert latent.shape == (5000, LATENT_DIM)
    assert latent.mean().item() == pytest.approx(mean, abs=0.03)
    assert latent.var().item() == pytest.approx(variance, rel=0.03)
    assert latent.abs().max() <= largest
    assert (latent.min() < 0) == (distribution != "unit_uniform")


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_of_samples_below_one_is_named(model, n):
    with pytest.raises(ValueError, match=f"n: {n} "):
        model.sample(n)


def test_evaluation_loops_run_and_predict_generated_images():
    model = tiny()
    trainer = tiny_trainer(limit_val_batches=None)
    data = NoiseImages(batch_size=8)
    trainer.validate(model, data, verbose=False)
    trainer.test(model, data, verbose=False)
    batches = trainer.predict(model, data)
    assert [tuple(batch.shape) for batch in batches] == [(8, 3, 8, 8)] * 2 + [(4, 3, 8, 8)]


# --- what does not fit is refused before the first step -----------------------------------------


def refuse(model, message, data=None, **settings):
    before = copied(model)
    with pytest.raises(ValueError, match=message) as error:
        fit(model, data=data, **settings)
    assert "\n" not in str(error.value)
    assert same(copied(model), before)


def test_another_value_range_is_refused():
    refuse(tiny(), r"\[0.0, 1.0\].*\[-1.0, 1.0\]", NoiseImages(value_range=(-1.0, 1.0)))
    refuse(tiny(generator=tiny_generator(output="tanh")), r"\[-1.0, 1.0\].*\[0.0, 1.0\]")


def test_another_image_size_is_refused():
    refuse(tiny(generator=tiny_generator(image_size=16)), r"\(3, 16, 16\).*\(3, 8, 8\)")
    refuse(tiny(generator=tiny_generator(channels=1)), r"\(1, 8, 8\).*\(3, 8, 8\)")


def bare_generator(latent_dim, *layers):
    """A generator that says nothing about itself."""
    return nn.Sequential(nn.Linear(latent_dim, 192), *layers, nn.Unflatten(1, (3, 8, 8)))


def test_a_generator_that_says_nothing_is_tried_out():
    fit(tiny(generator=bare_generator(LATENT_DIM, nn.Sigmoid())), max_steps=1)
    refuse(tiny(generator=bare_generator(LATENT_DIM + 1, nn.Sigmoid())), r"generator.*latents")
    refuse(
        tiny(generator=nn.Sequential(nn.Linear(LATENT_DIM, 48), nn.Unflatten(1, (3, 4, 4)))),
        r"generator.*\(3, 4, 4\)",
    )
    generator = bare_generator(LATENT_DIM, nn.Tanh())
    nn.init.constant_(generator[0].bias, -1.0)
    refuse(tiny(generator=generator), r"generator: its values.*\[0.0, 1.0\]")


def test_the_latent_size_is_the_generators_by_default():
    assert tiny(latent_dim=None).sample_latent(2).shape == (2, LATENT_DIM)


def test_another_latent_size_is_refused():
    with pytest.raises(ValueError, match=r"latent_dim.* 7 .* 4"):
        tiny(latent_dim=7)


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "bf16-true"])
def test_half_precision_is_refused(monkeypatch, precision):
    # Lightning itself replaces 16-mixed where there is no GPU.
    monkeypatch.setattr(Trainer, "precision", precision)
    refuse(tiny(), f"precision.*{precision}.*bf16-mixed")


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_cut_networks_up_are_refused(strategy):
    trainer = SimpleNamespace(precision="32-true", strategy=object.__new__(strategy))
    message = f"trainer.strategy: {strategy.__name__} is not supported .* use 'auto' or 'ddp'"
    with pytest.raises(ValueError, match=message):
        supported_trainer(trainer)


def test_bfloat16_autocast_trains():
    model = tiny()
    before = copied(model)
    fit(model, precision="bf16-mixed")
    after = copied(model)
    assert all(value.dtype == torch.float32 for value in after.values())
    assert all(value.isfinite().all() for value in after.values())
    assert not same(after, before)


def test_double_precision_trains():
    model = tiny()
    fit(model, precision="64-true")
    assert all(value.dtype == torch.float64 for value in copied(model).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_steps": -1}, "critic_steps: -1 .* 0 or more"),
        ({"latent_distribution": "cauchy"}, "latent_distribution: 'cauchy' .*normal, uniform"),
        ({"latent_dim": 0, "generator": bare_generator(4)}, "latent_dim: 0 .* 1 or more"),
        ({"latent_dim": None, "generator": bare_generator(4)}, "latent_dim: null .*Sequential"),
    ],
)
def test_arguments_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny(**settings)
    assert "\n" not in str(error.value)


# --- what a batch may be ------------------------------------------------------------------------


class Labelled(LightningDataModule):
    """A data module of somebody else's: float images with labels, and nothing more."""

    def train_dataloader(self):
        images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(torch.utils.data.TensorDataset(images, torch.arange(8)), batch_size=4)

    val_dataloader = train_dataloader


def test_labels_beside_the_images_are_left_out():
    assert fit(tiny(), data=Labelled(), max_steps=3).global_step == 3
