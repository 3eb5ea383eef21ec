"""Iterations of other libraries beside ours: the same networks, losses, batch and critic steps.

Ours are timed in ``Trainer.fit``, with its loops and data; theirs are their train steps alone.
"""

import importlib
import importlib.util
import sys
from unittest.mock import MagicMock

import pytest
import torch
from bare_loop import Turns
from lightning.pytorch import Trainer
from timing import interleaved, median_ratio, report
from torch import nn
from torch.utils.data import DataLoader

from lightning_igm import GAN, SNGAN, WGANGP
from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.networks import spectral_norm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
]
BATCH, LATENT_DIM, CRITIC_STEPS = 16, 128, 2


def adam(parameters):
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.9))


def need(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


class Logits(nn.Module):
    """Logits ``(N,)`` of a critic that gives ``(N, 1)``."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def forward(self, images):
        return self.critic(images).flatten()


def ours_over_theirs(model, step, real, turns):
    """Processor time of a generator step, critic steps before it included."""
    times = Turns(step)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[times],
        max_steps=turns + 2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, DataLoader(real.repeat(64, 1, 1, 1), batch_size=BATCH))
    return median_ratio(times.rounds, lambda seconds: seconds["fit"] / seconds["bare"])


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture
def nets():
    """torch-mimicry's networks, without what no train step needs.

    Its data sets import what torch no longer has, its scores TensorFlow and its tools skimage: it
    is installed without dependencies.
    """
    need("torch_mimicry")
    for name in ("datasets", "metrics", "utils"):
        sys.modules.setdefault(f"torch_mimicry.{name}", MagicMock())
    return importlib.import_module("torch_mimicry.nets")


def mimicry_step(generator, critic, real):
    from torch_mimicry.training.metric_log import MetricLog

    of_generator, of_critic = adam(generator.parameters()), adam(critic.parameters())
    batch = real, torch.zeros(BATCH)

    def step():
        log = MetricLog()
        for _ in range(CRITIC_STEPS):
            critic.train_step(batch, netG=generator, optD=of_critic, log_data=log)
        generator.train_step(batch, netD=critic, optG=of_generator, log_data=log)

    return step


def with_latent_dim(generator):
    generator.latent_dim = LATENT_DIM
    return generator


def test_sngan_of_torch_mimicry(nets, record_property):
    real = torch.rand(BATCH, 3, 32, 32)
    generators = [nets.sngan.SNGANGenerator32(LATENT_DIM, 32, loss_type="gan") for _ in range(2)]
    theirs = nets.sngan.SNGANDiscriminator32(32, loss_type="gan")
    # The same layers without their spectral norm, with ours.
    ours = spectral_norm(Logits(nets.dcgan.DCGANDiscriminator32(32)), "fixed")
    assert count(ours) == count(theirs)
    model = SNGAN(
        with_latent_dim(generators[0]),
        ours,
        critic_steps=CRITIC_STEPS,
        generator_optimizer=adam,
        critic_optimizer=adam,
    )
    step = mimicry_step(generators[1], theirs, real)
    ratio = ours_over_theirs(model, step, real, turns=8)
    report(record_property, "SN-GAN 32: ours in fit / torch-mimicry", ratio, at_most=1.05)


def test_wgan_gp_of_torch_mimicry(nets, record_property):
    real = torch.rand(BATCH, 3, 32, 32)
    generators = [nets.wgan_gp.WGANGPGenerator32(LATENT_DIM, 32) for _ in range(2)]
    critics = [nets.wgan_gp.WGANGPDiscriminator32(32) for _ in range(2)]
    model = WGANGP(
        with_latent_dim(generators[0]),
        Logits(critics[0]),
        critic_steps=CRITIC_STEPS,
        generator_optimizer=adam,
        critic_optimizer=adam,
    )
    step = mimicry_step(generators[1], critics[1], real)
    ratio = ours_over_theirs(model, step, real, turns=8)
    report(record_property, "WGAN-GP 32: ours in fit / torch-mimicry", ratio, at_most=1.05)


def test_dcgan_of_torchgan(record_property):
    need("torchgan")
    from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
    from torchgan.models import DCGANDiscriminator, DCGANGenerator

    real, device = torch.rand(BATCH, 3, 32, 32), torch.device("cpu")
    generators = [DCGANGenerator(LATENT_DIM, 32, step_channels=64) for _ in range(2)]
    critics = [
        DCGANDiscriminator(32, step_channels=64, last_nonlinearity=nn.Identity()) for _ in range(2)
    ]
    optimizers = [adam(network.parameters()) for network in (generators[1], critics[1])]
    of_generator, of_critic = MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()

    def step():
        players = generators[1], critics[1]
        of_critic.train_ops(*players, optimizers[1], real, device)
        of_generator.train_ops(*players, optimizers[0], device, BATCH)

    model = GAN(
        with_latent_dim(generators[0]),
        critics[0],
        generator_optimizer=adam,
        critic_optimizer=adam,
    )
    ratio = ours_over_theirs(model, step, real, turns=20)
    report(record_property, "DCGAN 32: ours in fit / torchgan", ratio, at_most=1.05)


def test_mmd_of_geomloss(record_property):
    need("geomloss")
    from geomloss import SamplesLoss

    torch.manual_seed(0)
    x, y = torch.rand(2, 500, 768)
    x.requires_grad_()
    sigma = 4.0
    losses = {
        # Half the squared distance, by the biased estimate.
        "theirs": lambda: 2 * SamplesLoss("gaussian", blur=sigma, backend="tensorized")(x, y),
        "ours": lambda: mmd2(Gaussian(sigma), x, y, estimator="biased"),
    }
    gradients = [torch.autograd.grad(loss(), x)[0] for loss in losses.values()]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)
    functions = {
        name: lambda loss=loss: torch.autograd.grad(loss(), x) for name, loss in losses.items()
    }
    rounds = interleaved(functions, rounds=15, processor_time=True)
    ratio = median_ratio(rounds, lambda seconds: seconds["ours"] / seconds["theirs"])
    report(record_property, "MMD and gradient, 500 of 768: ours / geomloss", ratio)
