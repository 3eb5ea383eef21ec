"""The smallest module, data module and trainer that the callbacks can run with."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

IMAGE_SHAPE = (3, 4, 4)


class TinyGAN(LightningModule):
    """Steps the generator every ``critic_steps + 1`` batches, with noise from the global RNG."""

    latent_dim = 2

    def __init__(self, critic_steps=0):
        super().__init__()
        self.automatic_optimization = False
        self.critic_steps = critic_steps
        size = IMAGE_SHAPE[0] * IMAGE_SHAPE[1] * IMAGE_SHAPE[2]
        self.generator = nn.Sequential(
            nn.Linear(2, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.1),
            nn.Linear(8, size),
            nn.Sigmoid(),
            nn.Unflatten(1, IMAGE_SHAPE),
        )

    def sample_latent(self, n, generator=None):
        device = self.device if generator is None else generator.device
        return torch.randn(n, self.latent_dim, generator=generator, device=device).to(self.device)

    def forward(self, z):
        return self.generator(z)

    @torch.no_grad()
    def sample(self, n, generator=None):
        training = self.generator.training
        self.generator.eval()
        try:
            return self(self.sample_latent(n, generator))
        finally:
            self.generator.train(training)

    def training_step(self, batch, batch_idx):
        fake = self(torch.randn(len(batch), self.latent_dim, device=self.device))
        if (batch_idx + 1) % (self.critic_steps + 1):
            return
        optimizer = self.optimizers()
        optimizer.zero_grad()
        (fake.mean(0) - batch.mean(0)).square().sum().backward()
        optimizer.step()

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.generator.parameters(), lr=1e-2)


class ResumableLoader(DataLoader):
    """Without a state, Lightning warns about resuming within an epoch."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


class TinyImages(LightningDataModule):
    """Uint8 noise images; every rank holds every ``world_size``-th one."""

    name = "digits"
    value_range = (0.0, 1.0)

    def __init__(self, num_images=40):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (num_images, *IMAGE_SHAPE)
        self.images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        self.ordered_passes = 0

    def _share(self):
        return self.images[self.trainer.global_rank :: self.trainer.world_size]

    def train_dataloader(self):
        return ResumableLoader(self._share(), batch_size=8, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self._share(), batch_size=20)

    test_dataloader = val_dataloader

    def ordered_train_dataloader(self):
        self.ordered_passes += 1
        return DataLoader(self._share(), batch_size=15)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch.float() / 255


class TinyExtractor(nn.Module):
    """Three features per image: the channel means."""

    num_features = 3

    def forward(self, images):
        assert images.dtype == torch.uint8
        return (images.float() / 255).mean((2, 3))


def tiny_trainer(folder, *callbacks, **settings):
    defaults = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 6,
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**(defaults | settings), callbacks=list(callbacks))


def fitted_state(folder, *callbacks, seed=0, critic_steps=0, **settings):
    """Train from a seed; return the model, its state and the random state at the end."""
    torch.manual_seed(seed)
    model = TinyGAN(critic_steps)
    tiny_trainer(folder, *callbacks, **settings).fit(model, datamodule=TinyImages())
    return model, {key: value.clone() for key, value in model.state_dict().items()}, torch.rand(3)


def assert_same_training(first, second):
    assert first[1].keys() == second[1].keys()
    for key, value in first[1].items():
        assert torch.equal(value, second[1][key]), key
    assert torch.equal(first[2], second[2])
    modes = [[module.training for module in model.modules()] for model in (first[0], second[0])]
    assert modes[0] == modes[1]
