"""Training on several ranks is training in one process on the joined batch."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from methods import concrete_methods, settings_on_digits
from torch.optim import SGD, Adam
from two_ranks import started

from lightning_igm.data import ImageDataModule
from lightning_igm.distributed import rank, world_size
from lightning_igm.losses.fields import MMDField, SinkhornField
from lightning_igm.losses.moments import mean_moments
from lightning_igm.modules import (
    GAN,
    GCMMDGAN,
    MMDGAN,
    R3GAN,
    SMMDGAN,
    SNGAN,
    SWGAN,
    WGANGP,
    AutoencoderMMDGAN,
    CramerGAN,
    DriftingModel,
    FeatureMatching,
    GRAMNet,
    MMDNet,
    MoLM,
    NonFiniteLossError,
    RepulsiveMMDGAN,
    SobolevGAN,
)
from lightning_igm.modules.pretraining import AutoencoderTraining
from lightning_igm.networks import (
    Autoencoder,
    DCGANCritic,
    DCGANGenerator,
    GRAMGenerator,
    ImageStatistics,
    LayerFeatures,
    MLPGenerator,
    spectral_norm,
)

GLOBAL_BATCH = 8
OPTIMIZERS = {"sgd": partial(SGD, lr=0.2), "adam": partial(Adam, lr=0.003)}
# What one update after the other magnifies is smaller: the steps, and with a larger eps what Adam
# makes of a gradient that is zero but for rounding, as that of a critic's last bias is where the
# kernel sees only differences of features.
GENTLE = {"sgd": partial(SGD, lr=0.02), "adam": partial(Adam, lr=0.003, eps=1e-3)}
# This game magnifies any difference tenfold with each such step: 5e-15 after 5, 9e-6 after 20. With
# Adam's usual eps it does so much more: differences after 5 steps were up to 1e-8, by processor.
# The repulsive loss counts pairs as near or far from a threshold on: there, rounding decides.
GENTLER = {"gram by medians": 0.1, "repulsive": 0.1}


@pytest.fixture(scope="module")
def ranks_of():
    return started


@pytest.fixture(scope="module")
def ranks(ranks_of):
    return ranks_of(2)


class NoiseImages(ImageDataModule):
    """An odd number of images, so that the ranks' shares differ."""

    name = "noise"
    image_shape = (3, 8, 8)

    def load_images(self):
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(256, (41, *self.image_shape), generator=draw, dtype=torch.uint8)
        return images, images

    def to_float(self, images):
        return super().to_float(images).double()


class LocalMoments(MoLM):
    """Knowingly wrong: the squared distance of each rank's own mean moments."""

    def _moments(self, images):
        return mean_moments(self.critic, images)


class LocalPenalty(MoLM):
    """Knowingly wrong: the penalty of each rank's own mean squared moment."""

    def critic_loss(self, real, fake):
        from lightning_igm.modules import molm

        everything, molm.all_mean = molm.all_mean, lambda tensor: tensor
        try:
            return super().critic_loss(real, fake)
        finally:
            molm.all_mean = everything


class LocalRatio(GRAMNet):
    """Knowingly wrong: the ratio and the discrepancy of each rank's own batch."""

    def gram_matrices(self, real, fake):
        from lightning_igm.losses import _gram_matrices

        gathered, _gram_matrices._gathered = _gram_matrices._gathered, lambda points: points
        try:
            return super().gram_matrices(real, fake)
        finally:
            _gram_matrices._gathered = gathered


class LocalFields(DriftingModel):
    """Knowingly wrong: the field of each rank's own batch."""

    def generator_loss(self, real, fake):
        from lightning_igm.losses import _clouds

        everything = _clouds.gather, _clouds.rank
        _clouds.gather, _clouds.rank = lambda rows: rows, lambda: 0
        try:
            return super().generator_loss(real, fake)
        finally:
            _clouds.gather, _clouds.rank = everything


class LosesItsLoss(GAN):
    """On one rank the loss is NaN, and its gradients are sound."""

    def generator_loss(self, real, fake):
        loss = super().generator_loss(real, fake)
        return loss + float("nan") if rank() == 1 else loss


def with_decoder(generator, critic, latent_dim, **arguments):
    """Li et al.'s form, whose decoder makes images of three features."""
    decoder = DCGANGenerator(latent_dim=3, image_size=8, width=4, batch_norm=False, init="he")
    return AutoencoderMMDGAN(generator, critic, decoder, latent_dim=latent_dim, **arguments)


def on_codes(generator, critic, **arguments):
    """Two steps of the autoencoder for each batch, seven in all."""
    del generator, critic
    autoencoder = Autoencoder((3, 8, 8), (6,), 3)
    # The limit is exceeded: the norm must be of the global batch's gradient.
    training = AutoencoderTraining(2, 3, GLOBAL_BATCH // 2, max_gradient_norm=0.2)
    made = MLPGenerator(4, (3,), (6,), output="sigmoid")
    del arguments["critic_optimizer"]
    return MMDNet(made, autoencoder=autoencoder, pretraining=training, **arguments)


def on_pixels(generator, critic, **arguments):
    del critic, arguments["critic_optimizer"]
    return MMDNet(generator, **arguments)


def drifting(generator, critic, **arguments):
    """In the features of the critic's layers, or others."""
    del arguments["critic_optimizer"]
    settings = {"temperatures": (0.2, 1.0), "features": LayerFeatures(critic)}
    return DriftingModel(generator, **(settings | arguments))


def local_fields(generator, critic, **arguments):
    del critic, arguments["critic_optimizer"]
    return LocalFields(generator, temperatures=(0.2, 1.0), **arguments)


def matching(generator, critic, **arguments):
    del arguments["critic_optimizer"]
    return FeatureMatching(generator, **({"features": LayerFeatures(critic)} | arguments))


LI = {
    "out_dim": 3,
    "estimator": "biased",
    "mmd_root": True,
    "one_sided_weight": 16.0,
    "encoder_clip": 0.5,
}
MOLM = {"critic_steps": 2, "critic_interval": 2, "penalty_weight": 5.0}
# More jitter than usual: it is what rounding is magnified by.
GRAM = {"sigmas": [2.0], "jitter": 0.1, "out_dim": 3}
RUNS = {
    "gan": (GAN, {}),
    "gan, two critic steps": (GAN, {"critic_steps": 2}),
    "gan, uniform latents": (GAN, {"latent_distribution": "uniform"}),
    "one batch": (MoLM, MOLM),
    "two batches": (MoLM, MOLM | {"estimator": "two_batch"}),
    "u-statistic": (MoLM, MOLM | {"estimator": "u_statistic"}),
    "hidden moments": (MoLM, MOLM | {"hidden_weight": 0.1, "pixel_weight": 1.0}),
    "hidden moments, u-statistic": (
        MoLM,
        MOLM | {"estimator": "u_statistic", "hidden_weight": 0.1, "pixel_weight": 1.0},
    ),
    "random moments": (MoLM, MOLM | {"learn_moments": False}),
    "mmd": (MMDGAN, {"critic_steps": 2}),
    "mmd-gp-l2": (
        MMDGAN,
        {"critic_steps": 1, "gradient_penalty": 1.0, "activation_penalty": 1.0, "out_dim": 3},
    ),
    "smmd": (SMMDGAN, {"critic_steps": 2}),
    "smmd of three features": (SMMDGAN, {"critic_steps": 1, "out_dim": 3}),
    "smmd of eq. 7": (SMMDGAN, {"critic_steps": 1, "scaling": "paper"}),
    "smmd at interpolates": (SMMDGAN, {"critic_steps": 1, "mu": "interp"}),
    "smmd at a mixture": (SMMDGAN, {"critic_steps": 1, "mu": "mix"}),
    "smmd at noise": (SMMDGAN, {"critic_steps": 1, "mu": "noise"}),
    "sn-smmd": (SMMDGAN, {"critic_steps": 2, "spectral": "learnable"}),
    "swgan": (SWGAN, {"critic_steps": 2}),
    "gcmmd": (GCMMDGAN, {"critic_steps": 1}),
    "gcmmd of low rank": (GCMMDGAN, {"critic_steps": 1, "rank": 6}),
    "wgan-gp": (WGANGP, {"critic_steps": 1, "penalty_weight": 1.0}),
    "sn-gan": (SNGAN, {"critic_steps": 2, "spectral": "fixed"}),
    "sobolev": (SobolevGAN, {"critic_steps": 2, "rho": 1e-3}),
    "cramer": (CramerGAN, {"critic_steps": 1, "penalty_weight": 0.1, "out_dim": 3}),
    "mmd with a decoder": (with_decoder, LI | {"critic_steps": 2}),
    "mmd with a decoder, one batch": (
        with_decoder,
        LI | {"critic_steps": 2, "same_batch": True, "swap_one_sided": True},
    ),
    "mmd-net": (on_pixels, {}),
    "mmd-net of codes": (on_codes, {}),
    "gram": (GRAMNet, GRAM),
    "gram in turn": (GRAMNet, GRAM | {"update": "sequential", "sigmas": [0.5, 2.0]}),
    "gram by medians": (GRAMNet, GRAM | {"sigmas": "median5", "regulariser": "sum"}),
    "gram, spectral": (GRAMNet, GRAM | {"spectral": "learnable"}),
    "drifting": (drifting, {"features": None}),
    "drifting, statistics": (drifting, {"features": ImageStatistics([2])}),
    "drifting, layers, sinkhorn": (drifting, {"out_dim": 3, "field": SinkhornField(3)}),
    "drifting, layers, mmd": (drifting, {"out_dim": 3, "field": MMDField()}),
    "r3gan": (R3GAN, {"critic_steps": 2, "last_penalty_weight": 0.1, "penalty_steps": 4}),
    "r3gan, fresh reals": (R3GAN, {"fresh_reals": True}),
    "repulsive": (RepulsiveMMDGAN, {"out_dim": 3, "lower": 0.01}),
    "repulsive, in between": (
        RepulsiveMMDGAN,
        {"out_dim": 3, "weight": 0.2, "bounded": False, "spectral": "learnable"},
    ),
    "feature matching": (matching, {"out_dim": 3}),
    "feature matching, averages": (matching, {"out_dim": 3, "moving_average": 0.1}),
    "feature matching, covariance": (
        matching,
        {"features": ImageStatistics(pixels=False), "statistics": "covariance"},
    ),
    "clipped": (SMMDGAN, {"critic_steps": 1, "gradient_clip": 0.05}),
    "batch norm in both networks": (GAN, {"batch_norm": "both"}),
    "batch norm, moments of two batches": (
        MoLM,
        MOLM | {"estimator": "two_batch", "batch_norm": "generator"},
    ),
    "batch norm, ratio": (GRAMNet, GRAM | {"batch_norm": "generator"}),
    "batch norm, penalty": (
        WGANGP,
        {"critic_steps": 1, "penalty_weight": 0.1, "batch_norm": "generator"},
    ),
    "batch shift": (MMDGAN, {"critic_steps": 2, "batch_norm": "shift"}),
}
# Functions that make models of methods.
MADE = {
    with_decoder: AutoencoderMMDGAN,
    on_codes: MMDNet,
    on_pixels: MMDNet,
    drifting: DriftingModel,
    matching: FeatureMatching,
}


def runs_of_others(covered):
    """Methods that no run above is of, with the plain settings of their presets on the digits."""
    for name, kind in concrete_methods().items():
        if kind not in covered:
            settings = settings_on_digits(name)
            critic = settings.get("critic", {}).get("init_args", {})
            plain = {k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)}
            plain |= {key: critic[key] for key in ("out_dim", "spectral") if key in critic}
            plain["critic_steps"] = min(plain.get("critic_steps", 1), 2)
            yield name, (kind, {k: v for k, v in plain.items() if k != "latent_dim"})


RUNS |= runs_of_others({MADE.get(kind, kind) for kind, _ in RUNS.values()})
WRONG_RUNS = {
    "local moments": (LocalMoments, MOLM),
    "local penalty": (LocalPenalty, MOLM),
    "local ratio": (LocalRatio, GRAM),
    "local fields": (local_fields, {}),
}


def networks(out_dim=1, spectral=None, batch_norm=None):
    generator = DCGANGenerator(latent_dim=4, image_size=8, width=4, batch_norm=False, init="he")
    if batch_norm is not None:
        variant = "tensorflow" if batch_norm == "shift" else "pytorch"
        generator = GRAMGenerator(4, image_size=8, width=4, output="sigmoid", variant=variant)
    critic = DCGANCritic(image_size=8, width=4, hidden_dim=6, init="he", out_dim=out_dim)
    if batch_norm == "both":
        convolution = (
            torch.nn.Conv2d(3, 4, 3, bias=False),
            torch.nn.BatchNorm2d(4),
            torch.nn.LeakyReLU(),
        )
        head = torch.nn.Flatten(), torch.nn.Linear(144, 1), torch.nn.Flatten(0)
        critic = torch.nn.Sequential(*convolution, *head)
    if spectral is not None:
        spectral_norm(critic, spectral)
    return generator, critic


def train(name, optimizer, steps=5, dtype=torch.float64):
    """Weights at the start and at the end, what was logged last, and the data's moments."""
    torch.manual_seed(0)
    kind, arguments = (RUNS | WRONG_RUNS)[name]
    names = "out_dim", "spectral", "batch_norm"
    generator, critic = networks(**{key: arguments[key] for key in names if key in arguments})
    arguments = {key: value for key, value in arguments.items() if key not in names}

    model = kind(
        generator,
        critic,
        latent_dim=4,
        generator_optimizer=optimizer,
        critic_optimizer=optimizer,
        **arguments,
    ).to(dtype)
    start = weights(model)
    ranks = world_size()
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        max_steps=steps,
        max_epochs=-1,
        logger=(logged := LatestValues()),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=NoiseImages(batch_size=GLOBAL_BATCH // ranks))
    assert trainer.global_step == steps
    moments = getattr(model, "data_moments", None)
    return start, weights(model), logged.values, moments


class LatestValues(Logger):
    """On every rank, as all of them are compared."""

    name, version = "latest", 0

    def __init__(self):
        super().__init__()
        self.values = {}

    def log_metrics(self, metrics, step=None):
        self.values |= {name: torch.tensor(value) for name, value in metrics.items()}

    def log_hyperparams(self, params):
        pass


def weights(model):
    """Of all networks, with running statistics."""
    return {key: value.to(torch.float64, copy=True) for key, value in model.state_dict().items()}


def equal(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def furthest(first, second):
    return max((first[key] - second[key]).abs().max().item() for key in first)


def test_every_method_is_among_them():
    found = {MADE.get(kind, kind) for kind, _ in RUNS.values()}
    assert found >= set(concrete_methods().values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_like_one_process_on_the_joined_batch(ranks, name, optimizer):
    make = (GENTLE if name in GENTLER else OPTIMIZERS)[optimizer]
    start, expected, logged, moments = train(name, make)
    assert furthest(start, expected) > 1e-3
    first, second = ranks.run(train, name, make)
    assert equal(first[1], second[1])
    assert equal(first[0], start)
    # Adam divides small gradients by their size and so magnifies rounding.
    assert furthest(first[1], expected) < (1e-10 if optimizer == "sgd" else 1e-8)
    assert equal(first[2], second[2])
    assert furthest(first[2], logged) < 1e-5
    if moments is not None:
        assert torch.equal(first[3], second[3])
        assert (first[3] - moments).abs().max() < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("optimizer", "dtype", "most"),
    # A step of Adam moves by up to lr / eps = 3 times an error of the gradient: 20 steps by 60
    # times that, and about 30 roundings of a gradient of size 1 are 2e-6 in float32.
    [("sgd", torch.float64, 1e-10), ("adam", torch.float32, 1e-4)],
)
def test_after_twenty_updates_too(ranks_of, name, count, optimizer, dtype, most):
    make = GENTLE[optimizer]
    make = partial(make, lr=make.keywords["lr"] * GENTLER.get(name, 1))
    settings = name, make, 20, dtype
    _, expected, _, _ = train(*settings)
    outcomes = ranks_of(count).run(train, *settings)
    assert all(equal(outcome[1], outcomes[0][1]) for outcome in outcomes)
    assert furthest(outcomes[0][1], expected) < most


def stopped():
    RUNS["lost loss"] = (LosesItsLoss, {})
    try:
        train("lost loss", OPTIMIZERS["sgd"])
    except NonFiniteLossError as error:
        return str(error)


def test_a_loss_that_is_lost_on_one_rank_stops_all(ranks):
    for message in ranks.run(stopped):
        assert "generator_loss is not finite at generator step 0" in message


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_a_loss_of_local_statistics_is_caught(ranks, name):
    _, expected, _, _ = train(name, OPTIMIZERS["sgd"])
    first, second = ranks.run(train, name, OPTIMIZERS["sgd"])
    assert equal(first[1], second[1])
    assert furthest(first[1], expected) > 1e-6
