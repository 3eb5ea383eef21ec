"""An evaluation with 50,000 samples, 2048 features and 1008 logits, by a cheap extractor."""

import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_igm.callbacks import ImageMetrics
from lightning_igm.data import ImageDataModule
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator

COUNT = 50_000


class Noise(ImageDataModule):
    name = "noise"
    image_shape = (3, 16, 16)

    def load_images(self):
        images = torch.randint(256, (COUNT, *self.image_shape), dtype=torch.uint8)
        return images, images[:100]


class Projections(nn.Module):
    num_features = 2048

    def __init__(self):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(64, 2048), requires_grad=False)

    def forward(self, images):
        coarse = images[:, :, ::4, ::4].flatten(1).float() / 255
        features = coarse @ self.directions[: coarse.shape[1]]
        return features, features[:, :1008] / 10


def prepare(cache):
    torch.set_num_threads(1)
    model = GAN(
        DCGANGenerator(latent_dim=4, image_size=16, width=4, init="he"),
        DCGANCritic(image_size=16, width=4, hidden_dim=6, init="he"),
    )
    metrics = ImageMetrics(
        None,
        COUNT,
        Projections(),
        scores=["is", "fid", "kid", "ms_ssim"],
        kid_subset_size=1000,
        kid_subsets=5,
        pairs=200,
        cache_dir=cache,
    )
    data = Noise(batch_size=500)
    data.setup()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[metrics],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        default_root_dir=cache,
    )
    # LAPACK and the rest of the libraries are loaded by the time of the first measurement.
    torch.linalg.eigh(torch.eye(8).double())

    def evaluate():
        [scores] = trainer.validate(model, datamodule=data, verbose=False)
        assert scores["fid"] > 0

    return evaluate
