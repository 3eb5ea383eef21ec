"""Moment matching networks: losses by hand, the autoencoder's training, and what is left of it."""

import math
from itertools import product

import pytest
import torch
from lightning.pytorch import Callback
from tiny_models import (
    NoiseImages,
    assert_equal,
    copied,
    fit,
    same,
    sgd,
    tiny_generator,
    tiny_trainer,
)
from torch import nn

from lightning_igm import MMDNet
from lightning_igm.cli import main
from lightning_igm.losses.kernels import Gaussian, Sum
from lightning_igm.modules.players import Player
from lightning_igm.modules.pretraining import AutoencoderTraining, Stage
from lightning_igm.networks import Autoencoder, MLPGenerator

SHAPE = (3, 8, 8)
CODE_DIM = 3
FAKE = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
REAL = torch.tensor([[0.5], [1.5], [2.5], [3.0]], dtype=torch.float64)
KERNELS = {1: Gaussian(1.0), 2: Sum([Gaussian(1.0), Gaussian(2.0)])}


class Flipped(nn.Module):
    """A generator without weights that matter."""

    latent_dim = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, latent):
        return self.scale * latent


def pixels(**settings):
    return MMDNet(tiny_generator(batch_norm=False), generator_optimizer=sgd, **settings)


def codes(layer_steps=4, joint_steps=5, batch_size=2, **settings):
    torch.manual_seed(0)
    training = AutoencoderTraining(layer_steps, joint_steps, batch_size)
    autoencoder = Autoencoder(SHAPE, (5,), CODE_DIM)
    generator = MLPGenerator(4, (CODE_DIM,), (6,), output="sigmoid")
    return MMDNet(
        generator,
        generator_optimizer=sgd,
        autoencoder=autoencoder,
        pretraining=training,
        **settings,
    )


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bandwidths", "expected"), [(1, 0.1773534214), (2, 0.2931712960)])
def test_losses_of_seven_points(bandwidths, expected):
    for root in (False, True):
        model = MMDNet(Flipped(), KERNELS[bandwidths], root=root)
        loss = model.generator_loss(REAL, FAKE).item()
        assert loss == pytest.approx(math.sqrt(expected + 1e-6) if root else expected, abs=1e-9)


def test_gradient_is_that_of_the_slow_reference():
    torch.manual_seed(0)
    real, fake = (torch.randn(n, 1, 2, 2, dtype=torch.float64) for n in (4, 3))
    fake.requires_grad_()

    def slow():
        def mean(first, second):
            values = [
                sum((-(a - b).square().sum() / (2 * h**2)).exp() for h in (1.0, 2.0))
                for a, b in product(first, second)
            ]
            return sum(values) / len(values)

        return (mean(real, real) - 2 * mean(real, fake) + mean(fake, fake) + 1e-6).sqrt()

    fast = MMDNet(Flipped(), KERNELS[2]).generator_loss(real, fake)
    assert fast.item() == pytest.approx(slow().item(), rel=1e-12)
    expected, found = (torch.autograd.grad(loss, fake)[0] for loss in (slow(), fast))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_gradient_is_finite_at_zero():
    fake = REAL.clone().requires_grad_()
    loss = MMDNet(Flipped()).generator_loss(REAL, fake)
    assert loss.item() == pytest.approx(1e-3)
    assert torch.autograd.grad(loss, fake)[0].isfinite().all()


def test_trains_points_and_images():
    for model, trained in ((pixels(), fit(pixels())), (codes(), fit(codes()))):
        assert trained.global_step == 4
        assert model.sample(3).shape == (3, *SHAPE)


def test_momentum_follows_its_schedule():
    def with_momentum(parameters):
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.3)

    seen = []

    class Watched(MMDNet):
        def generator_step(self, real):
            super().generator_step(real)
            optimizer = self.optimizers(use_pl_optimizer=False)
            seen.append(optimizer.param_groups[0]["momentum"])

    generator = tiny_generator(batch_norm=False)
    fit(Watched(generator, momentum={0: 0.9, 2: 0.99}, generator_optimizer=with_momentum))
    fit(Watched(generator, generator_optimizer=with_momentum), max_steps=1)
    # An optimizer without a momentum has none to be set.
    fit(MMDNet(generator, momentum={0: 0.9}, generator_optimizer=torch.optim.Adam), max_steps=1)
    assert seen == [0.9, 0.9, 0.99, 0.99, 0.3]


def test_momentum_that_begins_later_is_that_of_an_optimizer_which_begins_then():
    weights = []
    for momentum in ({0: 0.0, 2: 0.5}, {0: 0.0}):
        torch.manual_seed(0)
        model = MMDNet(
            tiny_generator(batch_norm=False),
            momentum=momentum,
            generator_optimizer=torch.optim.RMSprop,
        )
        fit(model, max_steps=3)
        weights.append(copied(model))
    # The third step is the first with a momentum, whose buffer has nothing in it yet.
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)


# --- the autoencoder ----------------------------------------------------------------------------


def test_stages():
    training = AutoencoderTraining(layer_steps=2, joint_steps=202)
    stages = [training.stage(step, depth=2) for step in range(training.steps(depth=2))]
    assert stages[:5] == [
        Stage(range(1), 0.5, True),
        Stage(range(1), 0.5, False),
        Stage(range(1, 2), 0.5, True),
        Stage(range(1, 2), 0.5, False),
        Stage(range(2), 0.0, True),
    ]
    joint = stages[4:]
    assert [stage.momentum for stage in joint] == [0.0] * 50 + [0.5] * 150 + [0.9] * 2
    assert not any(stage.begins for stage in joint[1:])


def test_published_numbers_are_the_defaults():
    training = AutoencoderTraining()
    assert training.steps(depth=2) == 9000
    assert (training.batch_size, training.lr, training.max_gradient_norm) == (100, 0.1, 10.0)
    assert training.joint_momentum == {0: 0.0, 50: 0.5, 200: 0.9}


def test_autoencoder_comes_first_and_is_frozen_then():
    class Watched(MMDNet):
        def generator_step(self, real):
            self.kept = copied(self.autoencoder)
            super().generator_step(real)

    model = codes()
    model.__class__ = Watched
    start, generator = copied(model.autoencoder), copied(model.generator)
    batches = NoiseImages()
    trainer = fit(model, data=batches)
    # 13 steps of the autoencoder, two for each batch of four images, are seven batches.
    assert trainer.fit_loop.total_batch_idx + 1 == 7 + 4
    assert trainer.global_step == 4
    assert model.autoencoder_steps_taken == 13
    assert same(model.kept, copied(model.autoencoder))
    assert not any(torch.equal(start[name], model.kept[name]) for name in start)
    assert not any(torch.equal(generator[k], v) for k, v in copied(model.generator).items())


def test_loss_in_codes_is_of_codes():
    model = codes(layer_steps=0, joint_steps=0)
    expected = []

    class Watched(MMDNet):
        def generator_step(self, real):
            state = self.noise.get_state()
            made = self.generator(self.training_latent(len(real)))
            self.noise.set_state(state)
            expected.append(self.generator_loss(self.autoencoder.encode(real), made).item())
            super().generator_step(real)

    model.__class__ = Watched
    fit(model, max_steps=1)
    assert model.latest["generator_loss"].item() == pytest.approx(expected[0], rel=1e-6)


def test_samples_are_decoded():
    model = codes()
    latent = torch.randn(5, 4)
    expected = model.autoencoder.decode(model.generator(latent))
    torch.testing.assert_close(model(latent), expected)
    assert model(latent).shape == (5, *SHAPE)


@pytest.mark.parametrize(("taken", "levels"), [(0, range(1)), (4, range(1, 2)), (8, range(2))])
def test_a_step_by_hand(taken, levels):
    """One step of gradient descent; the momentum of the stage before is gone."""
    model = codes(batch_size=4)
    model.autoencoder.dropout = (0.0, 0.0)
    model.pretraining = AutoencoderTraining(4, 5, 4, lr=0.05, max_gradient_norm=0.1)
    model.autoencoder_steps_taken = taken
    seen = {}

    class Watched(MMDNet):
        def autoencoder_step(self, images):
            if "before" not in seen:
                seen["images"], seen["before"] = images, copied(self.autoencoder)
                optimizer = self.optimizers(use_pl_optimizer=False)[1]
                for parameter in self.autoencoder.parameters():
                    optimizer.state[parameter]["momentum_buffer"] = 1e6 + parameter.detach()
                super().autoencoder_step(images)
                seen["after"] = copied(self.autoencoder)
            else:
                self.autoencoder_steps_taken = 13

    model.__class__ = Watched
    model.players["autoencoder"] = Player(lambda p: torch.optim.SGD(p, lr=0.05))
    fit(model, max_steps=1)

    reference = Autoencoder(SHAPE, (5,), CODE_DIM, (0.0, 0.0))
    reference.load_state_dict(seen["before"])
    down, up = list(reference.encoder), list(reference.decoder)
    x = seen["images"].flatten(1)
    for linear in down[: levels.start]:
        x = torch.sigmoid(linear(x)).detach()
    layers = [down[i] for i in levels] + [up[1 - i] for i in reversed(levels)]
    y = x
    for linear in layers:
        y = torch.sigmoid(linear(y))
    loss = -(x * y.log() + (1 - x) * (1 - y).log()).sum() / len(x)
    parameters = [p for linear in layers for p in linear.parameters()]
    gradients = torch.autograd.grad(loss, parameters)
    norm = sum(g.square().sum() for g in gradients).sqrt()
    assert norm > 0.1
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 0.05 * gradient * 0.1 / norm
    for name, expected in copied(reference).items():
        torch.testing.assert_close(seen["after"][name], expected, rtol=1e-5, atol=1e-7)
    moved = {
        k.rpartition(".")[0] for k, v in seen["after"].items() if (v != seen["before"][k]).any()
    }
    assert len(moved) == 2 * len(levels)


def test_a_batch_makes_steps_of_strided_rows():
    rows = []

    class Watched(MMDNet):
        def autoencoder_step(self, images):
            rows.append(images)
            super().autoencoder_step(images)

    model = codes(layer_steps=1, joint_steps=3, batch_size=2)
    model.__class__ = Watched
    whole = []

    class Kept(NoiseImages):
        def on_after_batch_transfer(self, batch, index):
            images = super().on_after_batch_transfer(batch, index)
            whole.append(images)
            return images

    fit(model, data=Kept(batch_size=6), max_steps=1)
    # Five steps: three of the first batch, and as many as are left of the second.
    assert len(rows) == 5
    for step, images in enumerate(rows):
        batch, part = divmod(step, 3)
        assert torch.equal(images, whole[batch][part::3])


def test_dropout_is_of_the_runs_own_noise():
    model = codes()
    model.noise_stream.generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(400, 50)
    first = model._dropped(hidden, 0.2)
    kept = first != 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
    torch.testing.assert_close(first[kept], hidden[kept] / 0.8)
    assert not torch.equal(model._dropped(hidden, 0.2), first)
    model.noise.manual_seed(1)
    assert torch.equal(model._dropped(hidden, 0.2), first)
    assert model._dropped(hidden, 0.0) is hidden


class Greys(NoiseImages):
    """Images of one grey each: a single number tells them apart."""

    def load_images(self):
        images, _ = super().load_images()
        greys = images[:, :1, :1, :1].expand_as(images).contiguous()
        return greys, greys


def test_autoencoder_learns():
    # Small steps without momentum end at the same error on every processor.
    training = AutoencoderTraining(300, 2000, 20, 0.02, 0.0, {0: 0.0})
    torch.manual_seed(0)
    autoencoder = Autoencoder(SHAPE, (5,), CODE_DIM, dropout=(0.0, 0.0))
    generator = MLPGenerator(4, (CODE_DIM,), (6,), output="sigmoid")
    model = MMDNet(
        generator, generator_optimizer=sgd, autoencoder=autoencoder, pretraining=training
    )
    data = Greys()
    images = data.to_float(data.load_images()[0])
    fit(model, max_steps=1, data=data)
    without_a_code = (images - images.mean(0)).square().mean()
    assert (autoencoder(images) - images).square().mean() < without_a_code


# --- checks ---------------------------------------------------------------------------------------


def bad(generator=None, autoencoder=None, **settings):
    model = MMDNet(
        generator or MLPGenerator(4, (CODE_DIM,), output="sigmoid"),
        autoencoder=autoencoder or Autoencoder(SHAPE, (5,), CODE_DIM),
        **settings,
    )
    tiny_trainer().fit(model, datamodule=NoiseImages())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: bad(MLPGenerator(4, (5,), output="sigmoid")),
            r"generator: it makes \(5,\) and the autoencoder's codes are \(3,\); set both to",
        ),
        (
            lambda: bad(MLPGenerator(4, (CODE_DIM,), output="tanh")),
            r"generator: values in \[-1.0, 1.0\] are not allowed with an autoencoder",
        ),
        (
            lambda: bad(autoencoder=Autoencoder((3, 4, 4), (5,), CODE_DIM)),
            r"autoencoder: its images are \(3, 4, 4\) and the data's are \(3, 8, 8\); set both to",
        ),
        (lambda: pixels(momentum={3: 1.0}), r"momentum: 1.0 from step 3 on is not allowed"),
        (lambda: AutoencoderTraining(layer_steps=-1), "layer_steps: -1 is not allowed"),
        (lambda: AutoencoderTraining(joint_steps=-1), "joint_steps: -1 is not allowed"),
        (lambda: AutoencoderTraining(batch_size=0), "batch_size: 0 is not allowed"),
        (lambda: AutoencoderTraining(lr=0.0), "lr: 0.0 is not allowed"),
        (lambda: AutoencoderTraining(max_gradient_norm=0.0), "max_gradient_norm: 0.0 is not"),
        (lambda: AutoencoderTraining(layer_momentum=1.0), "layer_momentum: 1.0 from step 0 on"),
        (lambda: AutoencoderTraining(joint_momentum={-1: 0.5}), "joint_momentum: 0.5 from step -1"),
    ],
)
def test_mistakes(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_images_must_be_in_the_range_of_codes():
    with pytest.raises(ValueError, match=r"data.value_range: values in .* are not allowed"):
        tiny_trainer().fit(codes(), datamodule=NoiseImages(value_range=(-1, 1)))


# --- continued runs -----------------------------------------------------------------------------

CONFIG = """
trainer: {max_steps: 3, log_every_n_steps: 1, accelerator: cpu, enable_progress_bar: false,
  enable_model_summary: false}
model:
  class_path: MMDNet
  init_args:
    generator:
      class_path: MLPGenerator
      init_args: {latent_dim: 4, image_shape: [3], hidden: [6], output: sigmoid}
    generator_optimizer:
      class_path: Adam
      init_args: {lr: 0.01}
    autoencoder:
      class_path: Autoencoder
      init_args: {image_shape: [3, 8, 8], hidden: [5], code_dim: 3}
    pretraining: {layer_steps: 4, joint_steps: 6, batch_size: 2, joint_momentum: {0: 0.0, 2: 0.5}}
data:
  class_path: tiny_models.NoiseImages
  init_args: {batch_size: 4}
"""


class StopBefore(Callback):
    """Ctrl-C before a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx == self.batch:
            pl_module.in_training_step = False
            raise KeyboardInterrupt


def run(folder, *more):
    config = folder.with_name("config.yaml")
    config.write_text(CONFIG)
    return main(["fit", "--config", str(config), "--run.dir", str(folder), *more])


def outcome(folder):
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return {k: state[k] for k in ("state_dict", "training_state", "optimizer_states")}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "straight"
    return run(folder), folder


def test_parts_of_a_batch_that_ranks_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr("lightning_igm.modules.mmd_net.world_size", lambda: 2)
    message = (
        r"^pretraining.batch_size: 3 is not allowed with batches of 5 on 2 processes; .* 3 parts"
    )
    with pytest.raises(ValueError, match=message):
        codes(batch_size=3).training_step(torch.rand(5, *SHAPE), 0)


# Seven batches train the autoencoder: stages begin in the first, third and fifth.
@pytest.mark.parametrize("batch", [1, 4, 6, 8])
def test_a_continued_run_is_the_same_run(straight, tmp_path, batch):
    stop = ("--trainer.callbacks", "test_mmd_net.StopBefore", f"--trainer.callbacks.batch={batch}")
    with pytest.raises(SystemExit):
        run(tmp_path / "run", *stop)
    stopped = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert stopped["training_state"]["autoencoder_steps_taken"] == min(2 * batch, 14)
    run(tmp_path / "run", "--ckpt_path", "last")
    assert_equal(outcome(tmp_path / "run"), outcome(straight[1]))


def test_command_line_has_every_argument(straight):
    cli, _ = straight
    assert cli.model.pretraining.joint_momentum == {0: 0.0, 2: 0.5}
    assert cli.model.pretraining.batch_size == 2


def test_loads_from_a_checkpoint_of_the_command_line(straight):
    cli, folder = straight
    loaded = MMDNet.load_from_checkpoint(
        folder / "checkpoints/last.ckpt",
        generator=cli.model.generator,
        autoencoder=cli.model.autoencoder,
        kernel=None,
        generator_optimizer=torch.optim.Adam,
        pretraining=None,
    )
    latent = torch.randn(2, 4)
    assert torch.equal(loaded(latent), cli.model(latent))
