"""What an iteration of a GRAM-net costs beside a GAN's, with the same networks and batch.

In passes of one batch (a backward pass is one more for the inputs and one more for the weights), a
GAN's iteration is 2 of the generator and 3 of the critic forward, and back for the critic's weights
twice, for its inputs once, and for the generator's weights once. A GRAM-net's has one forward pass
less of each, as its fakes serve both gradients, and the same backward; and it has the Gram matrices
and a solve. Those cost about a millisecond at 200 points: much next to the ring's networks, nothing
next to convolutional ones.

An iteration is timed as users run it, from the start of a batch to its end in ``Trainer.fit``. The
smallest of many counts, of both in turns: what disturbs a machine only ever adds.
"""

import time
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from timing import report
from torch.utils.data import DataLoader

from lightning_igm import GAN, GRAMNet
from lightning_igm.networks import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator

pytestmark = pytest.mark.slow
BATCH = 200
ROUNDS = 4
ADAM = partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.999))


def ring(out_dim):
    generator = MLPGenerator(latent_dim=20, image_shape=(2,), hidden=(100, 100))
    return generator, MLPCritic(image_shape=(2,), hidden=(100, 100), out_dim=out_dim)


def dcgan(out_dim, **size):
    return DCGANGenerator(latent_dim=100, **size), DCGANCritic(out_dim=out_dim, **size)


# Networks, shape of an image, features of the projector, bandwidths, iterations in a round.
CASES = {
    "ring, 2-100-100": (ring, (2,), 10, [1.0], 200),
    "DCGAN, 16x16, width 32": (
        partial(dcgan, image_size=16, width=32),
        (3, 16, 16),
        32,
        [1.0, 3.0, 10.0],
        4,
    ),
    "DCGAN, 32x32, width 32": (
        partial(dcgan, image_size=32, width=32),
        (3, 32, 32),
        128,
        [1.0, 2.0, 4.0, 8.0, 16.0],
        2,
    ),
}


class Batches(LightningDataModule):
    def __init__(self, shape, count):
        super().__init__()
        self.images = torch.rand(count * BATCH, *shape)

    def train_dataloader(self):
        return DataLoader(self.images, batch_size=BATCH)

    val_dataloader = train_dataloader


class Clock(Callback):
    """The smallest time of a training batch."""

    def __init__(self):
        self.smallest = float("inf")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.smallest = min(self.smallest, time.perf_counter() - self.start)


def smallest_iteration(kind, networks, data, **settings):
    torch.manual_seed(0)
    model = kind(*networks, generator_optimizer=ADAM, critic_optimizer=ADAM, **settings)
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1_000_000 if len(data.images) < 50 * BATCH else 50,
        callbacks=[clock],
    )
    trainer.fit(model, datamodule=data)
    return clock.smallest


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_an_iteration_costs_little_more_than_a_gans(case, record_property):
    networks, shape, features, sigmas, count = CASES[case]
    data = Batches(shape, count)
    gan, gram = [], []
    for _ in range(ROUNDS):
        gan.append(smallest_iteration(GAN, networks(1), data))
        gram.append(smallest_iteration(GRAMNet, networks(features), data, sigmas=sigmas))
    report(record_property, f"GRAM-net / GAN, {case}", min(gram) / min(gan), at_most=1.3)
