"""The MMD GAN with a decoder: losses by hand, clipping, cadence, and what else must go on."""

import copy
import math

import pytest
import torch
from tiny_models import NoiseImages, copied, fit, same, sgd, tiny, tiny_trainer
from torch import nn

from lightning_igm import MMDGAN, AutoencoderMMDGAN
from lightning_igm.data import RingDataModule
from lightning_igm.losses.kernels import Gaussian, Sum
from lightning_igm.losses.mmd_gan import one_sided_term
from lightning_igm.networks import (
    GRAMCritic,
    GRAMGenerator,
    MLPCritic,
    MLPGenerator,
    spectral_norm,
)

PUBLISHED = {
    "kernel": Sum([Gaussian(2.0**power) for power in range(5)]),
    "estimator": "biased",
    "mmd_root": True,
    "autoencoder_weight": 8.0,
    "one_sided_weight": 16.0,
    "encoder_clip": 0.01,
}
SCHEDULE = {"critic_burst_steps": 100, "critic_burst_start": 25, "critic_burst_interval": 500}


def sixteen():
    return NoiseImages(size=16)


def images_form(kind=AutoencoderMMDGAN, **settings):
    torch.manual_seed(0)
    return tiny(
        kind,
        generator=GRAMGenerator(4, 16, width=3, output="sigmoid"),
        critic=GRAMCritic(16, width=3, out_dim=5, output_bias=False),
        decoder=GRAMGenerator(5, 16, width=3),
        **(PUBLISHED | {"critic_steps": 2} | settings),
    )


def points_form(kind=AutoencoderMMDGAN, **settings):
    torch.manual_seed(0)
    defaults = {"generator_optimizer": sgd, "critic_optimizer": sgd, "critic_steps": 2}
    return kind(
        MLPGenerator(4, (2,), (8,)),
        MLPCritic((2,), (8,), out_dim=3),
        decoder=MLPGenerator(3, (2,), (8,)),
        **(defaults | PUBLISHED | settings),
    )


# --- the one-sided term -------------------------------------------------------------------------


def test_one_sided_term_of_the_printed_difference():
    x, y = torch.zeros(1, 2).double(), torch.tensor([[-0.2, 0.3]], dtype=torch.float64)
    assert one_sided_term(x, y).item() == pytest.approx(-0.15, abs=1e-12)
    assert one_sided_term(x, y, swapped=True).item() == pytest.approx(-0.10, abs=1e-12)
    assert one_sided_term(y, x).item() == pytest.approx(-0.10, abs=1e-12)


def test_one_sided_term_by_loops():
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def slow():
        total = torch.zeros((), dtype=torch.float64)
        for j in range(4):
            difference = sum(x[:, j]) / 5 - sum(y[:, j]) / 3
            if difference < 0:
                total = total + difference / 4
        return total

    term = one_sided_term(x, y)
    assert term.item() == pytest.approx(slow().item(), rel=1e-12)
    assert term < 0
    for found, expected in zip(
        torch.autograd.grad(term, [x, y]), torch.autograd.grad(slow(), [x, y]), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_one_sided_term_is_wide_and_checks_its_features():
    x, y = torch.tensor([256.0, 1.0]), torch.tensor([257.0, 2.0])
    assert one_sided_term(x, y) == -1
    assert one_sided_term(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="y: features of length 3 are not allowed with features x"):
        one_sided_term(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"x: shape \(2, 2, 2\) is not allowed"):
        one_sided_term(torch.zeros(2, 2, 2), torch.zeros(2, 2))


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("swap", [False, True])
def test_losses_by_hand(swap):
    torch.manual_seed(1)
    real = torch.randn(4, 2, dtype=torch.float64)
    fake = torch.randn(3, 2, dtype=torch.float64)
    model = points_form(swap_one_sided=swap).double()
    f, h = model.encoder, model.decoder
    x, y = f(real), f(fake)

    def mean(a, b):
        squares = (a[:, None] - b[None]).square().sum(-1)
        return sum((-squares / (2 * 4.0**power)).exp() for power in range(5)).mean()

    squared = mean(x, x) - 2 * mean(x, y) + mean(y, y)
    gap = (x.mean(0) - y.mean(0)) * (-1 if swap else 1)
    one_sided = -(-gap).clamp(min=0).mean()
    assert one_sided < 0
    discrepancy = (squared + 1e-6).sqrt() + 16 * one_sided
    errors = (real - h(x)).square().mean() + (fake - h(y)).square().mean()
    assert model.generator_loss(real, fake).item() == pytest.approx(discrepancy.item(), rel=1e-10)
    loss, expected = model.critic_loss(real, fake), 8 * errors - discrepancy
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert model.latest["reconstruction_error"].item() == pytest.approx(errors.item())
    parameters = list(model.critic.parameters())
    assert len(parameters) == 8
    for found, wanted in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_each_term_alone():
    real, fake = torch.randn(4, 2), torch.randn(4, 2)

    def losses(**settings):
        model = points_form(**settings)
        return model.generator_loss(real, fake), model.critic_loss(real, fake)

    plain = {"one_sided_weight": 0.0, "mmd_root": False, "autoencoder_weight": 0.0}
    squared, critic = losses(**plain)
    torch.testing.assert_close(critic, -squared)
    root, critic = losses(**(plain | {"mmd_root": True}))
    torch.testing.assert_close(root, (squared + 1e-6).sqrt())
    torch.testing.assert_close(critic, -root)
    model = points_form()
    term = one_sided_term(model.encoder(real), model.encoder(fake))
    torch.testing.assert_close(losses(**(plain | {"one_sided_weight": 3.0}))[0], squared + 3 * term)


def test_gradients_are_finite_for_equal_batches():
    model = points_form()
    real = torch.randn(4, 2)
    for loss in (model.generator_loss(real, real), model.critic_loss(real, real)):
        for gradient in torch.autograd.grad(
            loss, list(model.critic.parameters()), allow_unused=True
        ):
            assert gradient is None or gradient.isfinite().all()


# --- updates --------------------------------------------------------------------------------------


def test_a_step_clips_the_encoder_first_and_never_the_decoder():
    states = []

    class Watched(AutoencoderMMDGAN):
        def critic_loss(self, real, fake):
            states.append((copied(self.encoder), copied(self.decoder)))
            return super().critic_loss(real, fake)

        def generator_loss(self, real, fake):
            states.append((copied(self.encoder), copied(self.decoder)))
            return super().generator_loss(real, fake)

    model = images_form(Watched, critic_steps=1)
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.add_(torch.where(parameter < 0, -1.0, 1.0))
    encoder, decoder = copied(model.encoder), copied(model.decoder)
    fit(model, data=sixteen(), max_steps=1)
    names = [name for name, _ in model.encoder.named_parameters()]
    norms = [name for name, m in model.encoder.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for name in names:
        assert torch.equal(states[0][0][name], encoder[name].clamp(-0.01, 0.01)), name
        assert encoder[name].abs().min() >= 1
    assert same(states[0][1], decoder)
    # The generator sees what the step made of them, and beyond the limit.
    assert max(states[1][0][name].abs().max() for name in names) > 0.01
    assert not same(states[1][1], decoder)
    assert all(torch.equal(copied(model.encoder)[name], states[1][0][name]) for name in names)


def test_without_a_limit_nothing_is_clipped():
    model = points_form(encoder_clip=None, critic_optimizer=lambda p: torch.optim.SGD(p, lr=1e-9))
    before = copied(model.encoder)
    fit(model, data=RingDataModule(count=40, batch_size=4))
    for name, value in copied(model.encoder).items():
        torch.testing.assert_close(value, before[name])
    assert max(value.abs().max() for value in before.values()) > 0.1


def test_a_round_trains_all_three_networks():
    # The encoder's features are small where it is clipped, and so are the generator's gradients.
    model = images_form(critic_steps=3, generator_optimizer=torch.optim.Adam)
    before = copied(model)
    trainer = fit(model, data=sixteen(), max_steps=1)
    assert trainer.fit_loop.total_batch_idx + 1 == 4
    for name, value in copied(model).items():
        if name.endswith(("weight", "bias")):
            assert not torch.equal(value, before[name]), name
    names = {name.split(".")[0] + "." + name.split(".")[1] for name in before if "critic" in name}
    assert names == {"critic.encoder", "critic.decoder"}


def test_form_without_decoder_keeps_its_names():
    model = tiny(MMDGAN)
    assert model.encoder is model.critic
    assert not hasattr(model, "decoder")
    assert {name.split(".")[1] for name in model.state_dict() if "critic" in name} == {"layers"}


class Due(AutoencoderMMDGAN):
    """Answers for any generator step, without a trainer."""

    step = 0

    @property
    def global_step(self):
        return self.step


def test_published_cadence():
    model = points_form(Due, critic_steps=5, **SCHEDULE)
    due = []
    for model.step in (0, 24, 25, 499, 500, 501):
        due.append(model.critic_steps_due())
    assert due == [100, 100, 5, 5, 100, 5]


@pytest.mark.parametrize("same_batch", [False, True])
def test_rounds_of_one_batch(same_batch):
    seen = []

    class Watched(AutoencoderMMDGAN):
        def critic_loss(self, real, fake):
            seen.append(("critic", real, fake))
            return super().critic_loss(real, fake)

        def generator_loss(self, real, fake):
            seen.append(("generator", real, fake))
            return super().generator_loss(real, fake)

    model = points_form(Watched, critic_steps=3, same_batch=same_batch)
    trainer = fit(model, data=RingDataModule(count=40, batch_size=4), max_steps=2)
    assert [player for player, _, _ in seen] == (["critic"] * 3 + ["generator"]) * 2
    assert trainer.fit_loop.total_batch_idx + 1 == (2 if same_batch else 8)
    batches = {real.sum().item() for _, real, _ in seen}
    assert len(batches) == (2 if same_batch else 8)
    assert len({fake.sum().item() for _, _, fake in seen}) == 8


def test_gradients_are_clipped_and_spectral_norms_advanced():
    model = images_form(gradient_clip=1e-3)
    spectral_norm(model.encoder, "learnable")
    vectors = {k: v for k, v in copied(model.critic).items() if k.endswith(".u")}
    decoder = copied(model.decoder)
    fit(model, data=sixteen(), max_steps=1)
    after = copied(model.critic)
    assert vectors
    assert all(not torch.equal(after[name], value) for name, value in vectors.items())
    for name, parameter in model.decoder.named_parameters():
        # Two steps of SGD, of rate 0.05.
        assert (parameter - decoder[name]).norm() <= 1.01 * 2 * 0.05 * 1e-3
    assert all(value.isfinite().all() for value in model.latest.values())


def test_a_checkpoint_brings_everything_back(tmp_path):
    model = images_form(critic_optimizer=torch.optim.RMSprop, critic_steps=2)
    trainer = fit(model, data=sixteen(), max_steps=2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = images_form(critic_optimizer=torch.optim.RMSprop, critic_steps=2)
    continued = copy.deepcopy(again)
    fit_more = tiny_trainer(max_steps=3)
    fit_more.fit(continued, datamodule=sixteen(), ckpt_path=tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)
    again.load_state_dict(state["state_dict"])
    assert same(copied(again), copied(model))
    averages = state["optimizer_states"][1]["state"]
    assert len(averages) == len(list(model.critic.parameters()))
    assert fit_more.global_step == 3
    assert not same(copied(continued), copied(model))


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoencoder_weight": -1.0}, "autoencoder_weight: -1.0 is not allowed"),
        ({"one_sided_weight": math.inf}, "one_sided_weight: inf is not allowed"),
        ({"encoder_clip": 0.0}, "encoder_clip: 0.0 is not allowed; it must be above 0"),
        (
            {"estimator": "unbiased"},
            "estimator: 'unbiased' is not allowed with mmd_root, as it can be negative; it must",
        ),
    ],
)
def test_bad_values(settings, message):
    with pytest.raises(ValueError, match=message):
        points_form(**settings)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (MLPGenerator(3, (5,)), r"decoder: its images are \(5,\) and the data's are \(2,\)"),
        (MLPGenerator(4), r"decoder: MLPGenerator does not take features \(2, 3\)"),
    ],
)
def test_a_decoder_that_does_not_fit(decoder, message):
    model = AutoencoderMMDGAN(MLPGenerator(4), MLPCritic(out_dim=3), decoder=decoder)
    with pytest.raises(ValueError, match=message):
        fit(model, data=RingDataModule(count=40, batch_size=4))


def test_checks_leave_running_statistics_alone():
    model = images_form()
    before = copied(model)

    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    model.on_fit_start = stop
    with pytest.raises(Stopped):
        fit(model, data=sixteen())
    assert same(copied(model), before)
