"""Ordinary loaders on two ranks: passes over all images are those of one, without repetition."""

import tempfile

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from two_ranks import started

from lightning_igm.callbacks import ImageMetrics, KIDLearningRate, SampleGrid
from lightning_igm.distributed import world_size
from lightning_igm.modules import GAN, MoLM
from lightning_igm.networks import DCGANCritic, DCGANGenerator


class Flipped(Dataset):
    """An odd number of images, each flipped or not at random."""

    images = torch.rand(21, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return {"image": image.flip(2) if torch.rand(()) < 0.5 else image}


class Means(nn.Module):
    num_features = 3

    def forward(self, images):
        means = (images.double() / 255).mean((2, 3))
        return means, 20 * means


def loader(subset):
    sampler = SubsetRandomSampler(range(2, 15)) if subset else None
    return DataLoader(Flipped(), batch_size=4, shuffle=not subset, sampler=sampler)


def fitted(method, subset, *callbacks, **settings):
    torch.manual_seed(0)
    model = method(
        DCGANGenerator(latent_dim=4, image_size=8, width=3, init="he"),
        DCGANCritic(image_size=8, width=3, hidden_dim=5, init="he"),
        **settings,
    )
    ranks = world_size()
    trainer = Trainer(
        default_root_dir=tempfile.mkdtemp(),
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        callbacks=list(callbacks),
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision="64-true",
    )
    trainer.fit(model, loader(subset))
    return model


def moments(subset):
    """Moments of the whole set; the critic keeps its weights, as training differs by the ranks."""
    return fitted(MoLM, subset, learn_moments=False).data_moments


def scores(subset):
    """Against real images, by a generator that does not train."""
    callback = ImageMetrics(
        2, 20, Means(), kid_subset_size=10, kid_subsets=3, is_splits=2, scores=["fid", "kid"]
    )

    def frozen(parameters):
        return torch.optim.SGD(parameters, lr=0.0)

    rule = KIDLearningRate(1, num_samples=9, extractor=Means())
    grid = SampleGrid(1, num_samples=4)
    fitted(GAN, subset, callback, rule, grid, generator_optimizer=frozen, critic_optimizer=frozen)
    real = rule.state_dict()["real"]
    return callback.latest["fid"], callback.protocol["real_images"], real


@pytest.mark.parametrize("subset", [False, True])
def test_moments_are_those_of_one_process(subset):
    expected = moments(subset)
    for found in started(2).run(moments, subset):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("subset", [False, True])
def test_scores_are_against_each_image_once(subset):
    _, count, real = scores(subset)
    first, second = started(2).run(scores, subset)
    assert count == (13 if subset else 21)
    assert first[:2] == second[:2]
    for ranks in (first, second):
        assert ranks[1] == count
        torch.testing.assert_close(ranks[2], real, rtol=1e-9, atol=1e-12)
