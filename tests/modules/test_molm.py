"""The Method of Learned Moments: its losses, its schedule, its data moments."""

import itertools

import pytest
import torch
from lightning.pytorch import LightningDataModule
from tiny_models import (
    NoiseImages,
    copied,
    fit,
    same,
    sgd,
    tiny,
    tiny_critic,
    tiny_generator,
    tiny_trainer,
)
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, IterableDataset

from lightning_igm.data.adapter import whole_data
from lightning_igm.data.sampler import pass_numbers
from lightning_igm.losses.moments import mean_moments
from lightning_igm.modules import MoLM

# --- losses -----------------------------------------------------------------------------------

outside_a_trainer = pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")


class GoldenCritic(nn.Sequential):
    """w2 lrelu(W1 x + b1) + b2 with numbers that are short to work with by hand."""

    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.LeakyReLU(0.2), nn.Linear(2, 1), nn.Flatten(0))
        values = [[[1.0, -1.0], [2.0, 0.0]], [0.0, -1.0], [[1.0, -2.0]], [0.5]]
        self.double()
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), values, strict=True):
                parameter.copy_(torch.tensor(value))


REAL = torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)
FAKE = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


def golden(**settings):
    return MoLM(nn.Linear(2, 2), GoldenCritic(), latent_dim=2, **settings).double()


@outside_a_trainer
def test_golden_critic_loss_and_gradient():
    model = golden(penalty_weight=0.1)
    assert model.num_moments == 9
    loss = model.critic_loss(REAL, FAKE)
    assert loss.item() == pytest.approx(8.1583437, rel=1e-7)
    assert model.latest["mean_squared_moment"].item() == pytest.approx(6.1822222, rel=1e-7)
    gradients = torch.autograd.grad(loss, list(model.critic.parameters()))
    expected = [
        [-0.70859743, -0.38090363, 5.30890363, 3.36300259],
        [-0.10297340, 2.02476670],
        [0.50146176, -6.71489065],
        [-0.39962676],
    ]
    for gradient, values in zip(gradients, expected, strict=True):
        assert gradient.flatten().tolist() == pytest.approx(values, abs=1e-8)


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        ("one_batch", 13.03, [-6.4, -2.85, -1.28, -0.57]),
        ("two_batch", 11.62, [-8.55, -2.3, -0.85, -0.68]),
        # With two fakes there is one pair of different ones, whose term two_batch is.
        ("u_statistic", 11.62, [-8.55, -2.3, -0.85, -0.68]),
    ],
)
def test_golden_generator_loss_and_gradient(estimator, value, gradient):
    model, fake = golden(estimator=estimator), FAKE.clone().requires_grad_()
    model.data_moments = mean_moments(model.critic, REAL).detach()
    loss = model.generator_loss(REAL, fake)
    assert loss.item() == pytest.approx(value)
    (actual,) = torch.autograd.grad(loss, fake)
    assert actual.flatten().tolist() == pytest.approx(gradient)


def per_image_features(critic, images, hidden_weight, pixel_weight):
    """``(N, k)``: moments, weighted pixels and weighted hidden units of every image."""

    def logit(parameters, image):
        return functional_call(critic, parameters, (image[None],)).squeeze()

    parameters = dict(critic.named_parameters())
    gradients = vmap(grad(logit), (None, 0))(parameters, images)
    features = [gradient.flatten(1) for gradient in gradients.values()]
    features.append(pixel_weight * images.flatten(1))
    for layer in critic.layers:
        images = layer(images)
        if isinstance(layer, nn.LeakyReLU):
            features.append(hidden_weight * images.flatten(1))
    return torch.cat(features, dim=1)


@pytest.fixture
def population():
    """Five images, all their moments, and a model for them."""
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    return images, tiny_critic(width=2, hidden_dim=3).double()


WEIGHTS = [{}, {"hidden_weight": 0.3, "pixel_weight": 2.0}]


def model_of(critic, estimator, weights):
    return tiny(MoLM, critic=critic, estimator=estimator, **weights)


def features_of(critic, images, weights):
    if not weights:
        return per_image_features(critic, images, 0, 0)[:, : len(parameters_of(critic))]
    return per_image_features(critic, images, **weights)


def parameters_of(critic):
    return torch.cat([parameter.detach().flatten() for parameter in critic.parameters()])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_u_statistic_is_the_sum_over_pairs_of_different_fakes(population, weights):
    images, critic = population
    images.requires_grad_()
    model = model_of(critic, "u_statistic", weights)
    features = features_of(critic, images, weights)
    model.data_moments = features.detach().square().mean(0)
    differences = features - model.data_moments
    pairs = [differences[i].dot(differences[j]) for i, j in itertools.permutations(range(5), 2)]
    expected = torch.stack(pairs).mean() / 2
    loss = model.generator_loss(images, images)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    actual, expected = (torch.autograd.grad(value, images)[0] for value in (loss, expected))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("estimator", "batch", "bias"),
    [("one_batch", 2, 1 / 4), ("two_batch", 2, 0), ("u_statistic", 3, 0)],
)
def test_the_mean_of_an_estimator_over_all_batches(
    population, weights, exact, estimator, batch, bias
):
    """Fakes are drawn with replacement, so that all batches can be listed."""
    images, critic = population
    images = images[:3]
    model = model_of(critic, estimator, weights)
    features = features_of(critic, images, weights).detach()
    mean = features.mean(0)
    model.data_moments = mean if exact else mean + 0.1
    loss = (mean - model.data_moments).square().sum() / 2
    trace = (features - mean).square().sum(1).mean()
    drawn = batch * (2 if estimator == "two_batch" else 1)
    batches = itertools.product(range(3), repeat=drawn)
    with torch.no_grad():
        losses = [model.generator_loss(images, images[list(chosen)]) for chosen in batches]
    expected = loss + bias * trace
    torch.testing.assert_close(torch.stack(losses).mean(), expected, rtol=1e-9, atol=1e-10 * trace)
    assert trace > 0


def test_without_weights_hidden_units_and_pixels_are_not_there(population):
    images, critic = population
    losses = []
    for weights in ({}, {"hidden_weight": 0.0, "pixel_weight": 0.0}):
        model = model_of(critic, "one_batch", weights)
        model.data_moments = torch.zeros(model.num_moments, dtype=torch.float64)
        losses.append(model.generator_loss(images, images))
    assert torch.equal(*losses)


def test_the_penalty_counts_parameters_only(population):
    images, critic = population
    norms = features_of(critic, images, {}).square().sum(1)
    model = model_of(critic, "one_batch", WEIGHTS[1])
    model.log_training = lambda values: values.update(norm=0) or model.latest.update(values)
    model.critic_loss(images, images)
    ratio = norms.mean() / len(parameters_of(critic))
    torch.testing.assert_close(model.latest["mean_squared_moment"], ratio)


def test_the_generators_loss_without_data_moments_says_what_is_missing():
    with pytest.raises(RuntimeError, match="training_set_moments"):
        tiny(MoLM).generator_loss(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))


# --- the schedule -----------------------------------------------------------------------------


class Recorded(MoLM):
    """Keeps what happened when, and what the generator steps were made with."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log_of_steps, self.critics, self.moments = [], [], []

    def critic_step(self, real):
        self.log_of_steps.append(("critic", self.global_step))
        before = copied(self.generator)
        super().critic_step(real)
        parameters = dict(self.generator.named_parameters())
        assert all(torch.equal(before[name], parameters[name]) for name in parameters)

    def generator_step(self, real):
        self.log_of_steps.append(("generator", self.global_step))
        super().generator_step(real)
        assert all(parameter.grad is None for parameter in self.parameters())
        self.critics.append(parameters_of(self.critic).clone())
        self.moments.append(self.data_moments.clone())

    def steps_of(self, player):
        return [step for who, step in self.log_of_steps if who == player]


def train(data=None, max_steps=40, **settings):
    model, data = tiny(Recorded, **settings), data or NoiseImages()
    trainer = fit(model, data=data, max_steps=max_steps)
    assert trainer.global_step == max_steps
    assert model.steps_of("generator") == list(range(max_steps))
    return model, data


def test_canonical_schedule():
    """4,000 steps, phases of 100 critic steps every 2,000, all divided by 100 and 20."""
    model, data = train(critic_steps=5, critic_interval=20)
    assert model.steps_of("critic") == 5 * [0] + 5 * [20]
    assert [who for who, _ in model.log_of_steps[:6]] == 5 * ["critic"] + ["generator"]
    assert data.ordered_passes == 2
    for block in (slice(0, 20), slice(20, 40)):
        assert all(torch.equal(model.critics[block][0], critic) for critic in model.critics[block])
        assert all(torch.equal(model.moments[block][0], m) for m in model.moments[block])
    assert not torch.equal(model.critics[19], model.critics[20])
    assert not torch.equal(model.moments[19], model.moments[20])


def test_printed_schedule():
    """A critic phase in the place of every 20th generator step: one generator step less a block."""
    model, data = train(critic_steps=5, critic_interval=19, max_steps=38)
    assert model.steps_of("critic") == 5 * [0] + 5 * [19]
    assert data.ordered_passes == 2


def test_random_moments_take_one_pass_and_no_critic_step():
    before = parameters_of(tiny_critic())
    model, data = train(learn_moments=False, critic_steps=5, critic_interval=20)
    assert model.steps_of("critic") == []
    assert data.ordered_passes == 1
    assert all(torch.equal(critic, before) for critic in model.critics)
    assert all(torch.equal(moments, model.moments[0]) for moments in model.moments)
    expected = per_image_mean(model, data)
    torch.testing.assert_close(model.moments[0], expected, rtol=1e-5, atol=1e-6)


def test_no_critic_steps_are_random_moments_too():
    model, data = train(critic_steps=0, critic_interval=2, max_steps=6)
    assert model.steps_of("critic") == []
    assert data.ordered_passes == 1


def test_a_phase_trains_on_new_images_each_time():
    class Seen(Recorded):
        def critic_loss(self, real, fake):
            self.seen.append((real.clone(), fake.clone()))
            return super().critic_loss(real, fake)

    model = tiny(Seen, critic_steps=5, critic_interval=20)
    model.seen = []
    fit(model, max_steps=1)
    for (real, fake), (other_real, other_fake) in itertools.combinations(model.seen, 2):
        assert not torch.equal(real, other_real)
        assert not torch.equal(fake, other_fake)


@pytest.mark.parametrize(("estimator", "passes"), [("one_batch", 1), ("two_batch", 2)])
def test_two_batches_are_two_passes_of_the_generator(estimator, passes):
    sizes = []

    class Watched(MoLM):
        def generator_step(self, real):
            handle = self.generator.register_forward_hook(lambda *call: sizes.append(len(call[2])))
            super().generator_step(real)
            handle.remove()

    fit(tiny(Watched, estimator=estimator, critic_steps=1), max_steps=3)
    # Batch normalization sees each batch by itself.
    assert sizes == 3 * passes * [4]


@pytest.mark.parametrize("estimator", ["one_batch", "two_batch", "u_statistic"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_estimator_trains(estimator, weights):
    model = tiny(MoLM, estimator=estimator, critic_steps=2, critic_interval=3, **weights)
    before = copied(model)
    fit(model, max_steps=5)
    after = copied(model)
    assert all(value.isfinite().all() for value in after.values())
    assert not same(after, before)


def test_bfloat16_autocast_trains():
    model = tiny(MoLM, critic_steps=2, critic_interval=3)
    fit(model, max_steps=5, precision="bf16-mixed")
    assert model.data_moments.dtype == torch.float32
    assert all(value.isfinite().all() for value in copied(model).values())


def test_double_precision_trains():
    model = tiny(MoLM, critic_steps=2, critic_interval=3)
    fit(model, max_steps=5, precision="64-true")
    assert model.data_moments.dtype == torch.float64


def test_the_generator_learns_from_the_gradients_alone():
    """A brighter critic bias cannot help: without a path through gradients nothing would move."""
    generator = tiny_generator()
    before = copied(generator)
    fit(tiny(MoLM, generator=generator, learn_moments=False), max_steps=1)
    after = copied(generator)
    assert not any(torch.equal(after[key], before[key]) for key in after)


# --- moments of the training set ----------------------------------------------------------------


def per_image_mean(model, data):
    images = data.to_float(data.train_images)
    return features_of(model.critic, images, {}).detach().mean(0)


class Reversed(NoiseImages):
    def load_images(self):
        images, _ = super().load_images()
        return images.flip(0), images.flip(0)


@pytest.mark.parametrize("kind", [NoiseImages, Reversed])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 19, 20])
def test_moments_of_the_training_set_do_not_depend_on_batches(kind, batch_size):
    """Every image counts the same: in any order, and in a short last batch."""
    model, data = tiny(MoLM), kind(batch_size)
    trainer = tiny_trainer(max_steps=0)
    trainer.fit(model, datamodule=data)
    moments = model.training_set_moments()
    assert not moments.requires_grad
    expected = per_image_mean(model, data)
    assert ((moments - expected).norm() / expected.norm()).item() < 1e-5


class Mirrored(NoiseImages):
    random_numbers = 1

    def transform(self, images, numbers):
        if numbers is None:
            return images
        return images.flip(3).where(numbers[:, :, None, None] < 0.5, images)


def test_moments_are_those_of_the_augmented_images():
    """Each image as the seed augments it; the same in every pass."""
    model, data = tiny(MoLM), Mirrored(3, seed=2)
    tiny_trainer(max_steps=0).fit(model, datamodule=data)
    images = data.transform(data.train_images, pass_numbers(20, seed=2, width=1))
    assert 0 < (images != data.train_images).flatten(1).any(1).sum() < 20
    expected = features_of(model.critic, data.to_float(images), {}).detach().mean(0)
    state = torch.get_rng_state()
    for _ in range(2):
        moments = model.training_set_moments()
        assert ((moments - expected).norm() / expected.norm()).item() < 1e-5
    assert torch.equal(torch.get_rng_state(), state)
    plain = per_image_mean(model, data)
    assert ((moments - plain).norm() / plain.norm()).item() > 1e-2


def test_hidden_units_and_pixels_have_moments_of_the_training_set():
    model, data = tiny(MoLM, **WEIGHTS[1]), NoiseImages(3)
    tiny_trainer(max_steps=0).fit(model, datamodule=data)
    images = data.to_float(data.train_images)
    expected = features_of(model.critic, images, WEIGHTS[1]).detach().mean(0)
    torch.testing.assert_close(model.training_set_moments(), expected, rtol=1e-4, atol=1e-6)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.rand(8, 3, 8, 8))


class Unordered(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=4)

    val_dataloader = train_dataloader


def test_a_data_module_whose_images_cannot_be_passed_over_is_named():
    with pytest.raises(ValueError, match=r"DataLoader of a Stream is not allowed .*MoLM") as error:
        fit(tiny(MoLM, critic_steps=1), data=Unordered())
    assert "\n" not in str(error.value)


def test_without_data_there_is_no_ordered_loader():
    model = tiny(MoLM)
    model.trainer = tiny_trainer()
    with pytest.raises(ValueError, match=r"NoneType has no ordered_train_dataloader\(\)"):
        whole_data(model.trainer)


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_interval": 0}, "critic_interval: 0 .* 1 or more"),
        ({"critic_interval": -5}, "critic_interval: -5 .* 1 or more"),
        ({"critic_steps": -1}, "critic_steps: -1 .* 0 or more"),
        ({"penalty_weight": -0.1}, r"penalty_weight: -0\.1 .* 0 or more"),
        ({"penalty_weight": float("nan")}, "penalty_weight: nan "),
        ({"hidden_weight": -1.0}, r"hidden_weight: -1\.0 "),
        ({"pixel_weight": float("inf")}, "pixel_weight: inf "),
        ({"estimator": "three_batch"}, "estimator: 'three_batch' .*one_batch, two_batch, u_stat"),
        ({"critic": nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 1))}, "critic"),
    ],
)
def test_arguments_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny(MoLM, **settings)
    assert "\n" not in str(error.value)


def test_the_u_statistic_refuses_fakes_that_depend_on_each_other():
    settings = {"generator": tiny_generator(image_size=16), "critic": tiny_critic(image_size=16)}
    with pytest.raises(ValueError, match=r"u_statistic.*BatchNorm2d"):
        tiny(MoLM, estimator="u_statistic", **settings)
    tiny(MoLM, estimator="two_batch", **settings)
    settings["generator"] = tiny_generator(image_size=16, batch_norm=False)
    tiny(MoLM, estimator="u_statistic", **settings)


def test_the_optimizers_go_on_from_phase_to_phase():
    """Adam's state is kept, so its step count is that of all critic steps."""

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=1e-3)

    model = tiny(MoLM, critic_optimizer=adam, generator_optimizer=sgd)
    model.critic_steps, model.critic_interval = 3, 2
    trainer = fit(model, max_steps=4)
    steps = {int(state["step"]) for state in trainer.optimizers[1].state.values()}
    assert steps == {6}
