"""The smallest networks, images and trainer that the methods can run with."""

import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_igm.data import ImageDataModule
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator

LATENT_DIM = 4


class NoiseImages(ImageDataModule):
    """20 images that never change; counts the passes over all of them."""

    name = "noise"

    def __init__(self, batch_size: int = 4, count: int = 20, size: int = 8, **settings):
        super().__init__(batch_size, **settings)
        self.count = count
        self.image_shape = (3, size, size)
        self.ordered_passes = 0

    def load_images(self):
        draw = torch.Generator().manual_seed(0)
        shape = (self.count, *self.image_shape)
        images = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
        return images, images

    def ordered_train_dataloader(self):
        self.ordered_passes += 1
        return super().ordered_train_dataloader()


def tiny_generator(seed=0, **settings):
    torch.manual_seed(seed)
    defaults = {"latent_dim": LATENT_DIM, "image_size": 8, "width": 3, "init": "he"}
    return DCGANGenerator(**(defaults | settings))


def tiny_critic(seed=0, **settings):
    torch.manual_seed(seed)
    defaults = {"image_size": 8, "width": 3, "hidden_dim": 5, "init": "he"}
    return DCGANCritic(**(defaults | settings))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def tiny(kind=GAN, generator=None, critic=None, **settings):
    defaults = {
        "latent_dim": LATENT_DIM,
        "generator_optimizer": sgd,
        "critic_optimizer": sgd,
    }
    return kind(generator or tiny_generator(), critic or tiny_critic(), **(defaults | settings))


def tiny_trainer(*callbacks, **settings):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 4,
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


def fit(model, *callbacks, data=None, **settings):
    """Train; returns the trainer."""
    torch.manual_seed(0)
    trainer = tiny_trainer(*callbacks, **settings)
    trainer.fit(model, datamodule=data or NoiseImages())
    return trainer


def copied(module: nn.Module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def assert_equal(first, second, where="checkpoint"):
    """Of two checkpoints, to the bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert first == second, where
