"""Passes over the whole training set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_igm.data.adapter import to_device, whole_data

if TYPE_CHECKING:
    from lightning_igm.modules.base import ImplicitGenerativeModule

__all__ = ["training_images"]


def training_images(module: ImplicitGenerativeModule) -> Iterator[Tensor]:
    """Every training image once, in order and as the data module prepares them, in batches.

    Augmentation is part of that, by the data module's seed, the same in every pass. Under several
    ranks, this rank's share of them.

    Args:
        module: Has a trainer.

    Raises:
        ValueError: The data cannot give them.
    """
    for batch in whole_data(module.trainer).ordered_train_dataloader():
        yield module.images_of(to_device(module.trainer, batch))
