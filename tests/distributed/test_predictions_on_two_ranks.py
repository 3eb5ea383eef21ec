"""What two processes predict together: every sample once, in one file."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from two_ranks import started

from lightning_igm.callbacks import PredictionWriter
from lightning_igm.data.image_array import read_images
from lightning_igm.distributed import world_size
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator


@pytest.fixture(scope="module")
def ranks():
    return started(2)


def predict(folder, form):
    from test_ddp_exactness import NoiseImages

    torch.manual_seed(0)
    generator = DCGANGenerator(latent_dim=4, image_size=8, width=4, init="he")
    model = GAN(generator, DCGANCritic(image_size=8, width=4, hidden_dim=6))
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=world_size(),
        strategy=DDPStrategy(process_group_backend="gloo"),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[PredictionWriter(form, num_samples=23)],
    )
    trainer.predict(model, datamodule=NoiseImages(batch_size=4), return_predictions=False)


def test_two_ranks_write_every_sample_once(ranks, tmp_path):
    ranks.run(predict, tmp_path / "npz", "npz")
    ranks.run(predict, tmp_path / "png", "png")
    assert [path.name for path in (tmp_path / "npz/predictions").iterdir()] == ["samples.npz"]
    images = read_images(tmp_path / "npz/predictions/samples.npz", "samples")
    assert len(images.flatten(1).unique(dim=0)) == len(images) == 23
    pngs = sorted(path.name for path in (tmp_path / "png/predictions").iterdir())
    assert pngs == [f"{index:08d}.png" for index in range(23)]
