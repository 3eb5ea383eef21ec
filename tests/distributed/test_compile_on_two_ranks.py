"""Compiled networks train on two ranks as they do when they are not."""

import warnings

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch._dynamo.utils import counters
from two_ranks import started

from lightning_igm.data import DigitsDataModule
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator


def train(compiler):
    """Weights after three steps, and whether anything was compiled."""
    warnings.simplefilter("ignore")
    counters.clear()
    torch.manual_seed(0)
    settings = {"image_size": 16, "width": 2, "init": "he"}
    generator = DCGANGenerator(latent_dim=4, output="sigmoid", **settings)
    model = GAN(generator, DCGANCritic(hidden_dim=4, **settings), compile=compiler)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        precision="64-true",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, DigitsDataModule(4, size=16))
    return model.state_dict(), counters["stats"]["unique_graphs"] > 1


def test_ranks_train_to_the_weights_of_networks_that_are_not_compiled():
    ranks = started(2)
    compiled, eager = ranks.run(train, "aot_eager"), ranks.run(train, False)
    assert [was for _, was in compiled + eager] == [True, True, False, False]
    for first, second in zip(compiled, eager, strict=True):
        torch.testing.assert_close(first[0], second[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(compiled[0][0], compiled[1][0], rtol=0, atol=0)
