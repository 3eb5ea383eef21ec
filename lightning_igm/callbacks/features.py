"""Features of real and of generated images, for the callbacks that compare them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.data.adapter import data_of
from lightning_igm.distributed import rank, world_size
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.extractors import extract
from lightning_igm.metrics.images import image_data, random_images, to_uint8
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.modules.base import ImplicitGenerativeModule

_DIGITS: dict[str, Literal["digits", "mnist"]] = {
    "digits": "digits",
    "mnist": "mnist",
    "color_mnist": "mnist",
    "stacked_mnist": "mnist",
}


def data_name(trainer: Trainer) -> str:
    """Return what the trainer's data are called."""
    return getattr(data_of(trainer), "name", None) or "these images"


def are_digits(trainer: Trainer) -> bool:
    """Tell whether the digit classifier's features suit the trainer's data."""
    return data_name(trainer) in _DIGITS


def digit_extractor(trainer: Trainer) -> DigitClassifier:
    """The digit classifier with the weights for the trainer's data."""
    return DigitClassifier.pretrained(_DIGITS.get(data_name(trainer), "digits"))


@contextmanager
def measurement(device: torch.device, seed: int) -> Iterator[None]:
    """Run the body without gradients or autocast, with random states of its own.

    Args:
        device: Where the body computes.
        seed: Seed of the global random states inside.
    """
    with torch.no_grad(), isolated_rng(seed), torch.autocast(device.type, enabled=False):
        yield


def generated_images(
    trainer: Trainer,
    pl_module: LightningModule,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    shared: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Generate images with the module's weights as they are, batch by batch.

    The stream of latents and the batches are the same on any number of processes.

    Args:
        trainer: The trainer whose data module states the range of values.
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
    trainer: Trainer,
    pl_module: LightningModule,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Generate images with the weights to evaluate, and extract their features.

    Every process generates all of them.

    Args:
        extractor: See :mod:`lightning_igm.metrics.extractors`.
        trainer: The trainer whose data module states the range of values.
        pl_module: The module that generates.
        num_samples: Number of images.
        batch_size: Images generated at a time.
        seed: Seed of the latents.

    Returns:
        ``(num_samples, D)``; NaN in the rows of images that are not finite.
    """
    value_range = image_data(trainer).value_range
    batches = []
    with evaluation_weights(trainer, pl_module):
        for _, images in generated_images(
            trainer, pl_module, num_samples=num_samples, batch_size=batch_size, seed=seed
        ):
            finite = images.isfinite().flatten(1).all(1, keepdim=True)
            features, _ = extract(extractor, to_uint8(images, value_range))
            batches.append(features.where(finite, float("nan")))
    return torch.cat(batches)


def real_features(
    extractor: nn.Module, trainer: Trainer, device: torch.device, count: int, seed: int
) -> Tensor:
    """Extract features of random training images, the same on any number of processes.

    Every process extracts all of them.

    Args:
        extractor: See :mod:`lightning_igm.metrics.extractors`.
        trainer: The trainer whose data module has the images.
        device: Where to compute.
        count: Number of images; all of them if there are not so many.
        seed: Seed of the choice.

    Returns:
        ``(count, D)``.
    """
    images = random_images(image_data(trainer), device, count, seed)
    return torch.cat([extract(extractor, batch)[0] for batch in images])
