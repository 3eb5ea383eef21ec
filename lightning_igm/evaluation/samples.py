"""Generated images of a module, for whatever measures them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_igm.distributed import rank, world_size
from lightning_igm.metrics.extractors import extract
from lightning_igm.metrics.images import to_uint8
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.modules.base import ImplicitGenerativeModule

__all__ = ["buffers_of_the_first", "generated_features", "generated_images", "measurement"]


@contextmanager
def measurement(device: torch.device, seed: int) -> Iterator[None]:
    """Run the body without gradients or autocast, with random states of its own.

    Args:
        device: Where the body computes.
        seed: Seed of the global random states inside.
    """
    with torch.no_grad(), isolated_rng(seed), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def buffers_of_the_first(pl_module: LightningModule) -> Iterator[None]:
    """Give all processes the first one's buffers, and their own back.

    Running statistics of batch normalisation differ between processes.
    """
    if world_size() == 1:
        yield
        return
    own = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]
    try:
        for buffer, _ in own:
            dist.broadcast(buffer, 0)
        yield
    finally:
        for buffer, value in own:
            buffer.copy_(value)


def generated_images(
    pl_module: LightningModule, num_samples: int, batch_size: int, seed: int, *, shared: bool
) -> Iterator[tuple[int, Tensor]]:
    """Generate images with the module's weights as they are, batch by batch.

    The stream of latents and the batches are the same on any number of processes.

    Args:
        pl_module: The module that generates.
        num_samples: Number of images.
        batch_size: Images generated at a time.
        seed: Seed of the latents.
        shared: Whether each process generates its share of the batches, or all of them.

    Yields:
        The position of a batch's first image, and the images, ``(N, C, H, W)``, as generated.
    """
    module = cast(ImplicitGenerativeModule, pl_module)
    latents = torch.Generator(pl_module.device).manual_seed(seed)
    for number, start in enumerate(range(0, num_samples, batch_size)):
        count = min(batch_size, num_samples - start)
        if shared and number % world_size() != rank():
            module.sample_latent(count, latents)
            continue
        yield start, module.sample(count, latents)


def generated_features(
    extractor: nn.Module,
    pl_module: LightningModule,
    value_range: tuple[float, float],
    num_samples: int,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Generate images, all of them on every process, and extract their features.

    Args:
        extractor: See :mod:`lightning_igm.metrics.extractors`.
        pl_module: The module that generates.
        value_range: The values of black and of white.
        num_samples: Number of images.
        batch_size: Images generated at a time.
        seed: Seed of the latents.

    Returns:
        ``(num_samples, D)``; NaN in the rows of images that are not finite.
    """
    batches = []
    for _, images in generated_images(pl_module, num_samples, batch_size, seed, shared=False):
        finite = images.isfinite().flatten(1).all(1, keepdim=True)
        features, _ = extract(extractor, to_uint8(images, value_range))
        batches.append(features.where(finite, float("nan")))
    return torch.cat(batches)
