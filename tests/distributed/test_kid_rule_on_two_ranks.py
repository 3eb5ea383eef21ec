"""Two ranks let the learning-rate rule decide as one, on the real images that one would take."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from two_ranks import started

from lightning_igm.callbacks import KIDLearningRate
from lightning_igm.data import ImageDataModule
from lightning_igm.distributed import world_size
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator

NUM_SAMPLES = 30
"""More than a rank's share of the 41 images."""


class NoiseImages(ImageDataModule):
    name = "noise"
    image_shape = (3, 16, 16)
    random_numbers = 1

    def load_images(self):
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(256, (41, *self.image_shape), generator=draw, dtype=torch.uint8)
        return images, images

    def transform(self, images, numbers):
        """Half of the training images are inverted at random."""
        return images if numbers is None else images.where(numbers[:, :, None, None] < 0.5, ~images)


class ChannelMeans(nn.Module):
    def forward(self, images):
        return (images.double() / 255).mean((2, 3))


def train():
    """The rule's state, the learning rates, and running statistics of the generator."""
    torch.manual_seed(0)
    model = GAN(
        DCGANGenerator(latent_dim=4, image_size=16, width=4, init="he"),
        DCGANCritic(image_size=16, width=4, hidden_dim=6, init="he"),
    )
    rule = KIDLearningRate(
        1, NUM_SAMPLES, patience=1, memory=2, level=1e-300, extractor=ChannelMeans(), batch_size=8
    )
    ranks = world_size()
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        callbacks=[rule],
        max_steps=3,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=NoiseImages(batch_size=8 // ranks))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    return rule.state_dict(), rates, [b for b in model.generator.buffers() if b.ndim]


@pytest.fixture(scope="module")
def ranks():
    return started(2)


def test_two_ranks_decide_as_one(ranks):
    alone, rates, _ = train()
    first, second = ranks.run(train)
    # Running statistics are of the global batch.
    assert all(torch.equal(*pair) for pair in zip(first[2], second[2], strict=True))
    assert first[1] == second[1] == rates == pytest.approx([0.0008, 0.0008])
    assert first[0]["decays"] == second[0]["decays"] == alone["decays"] == [2]
    for state in (first[0], second[0]):
        assert torch.equal(state["real"], alone["real"])
    for sums, others in zip(first[0]["past"], second[0]["past"], strict=True):
        assert all(torch.equal(sums[name], others[name]) for name in sums)
