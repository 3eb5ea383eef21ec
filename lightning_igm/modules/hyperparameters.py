"""Hyper-parameters in checkpoints: plain data, which loads without executing code."""

import warnings
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

__all__ = ["is_plain", "save_plain_hyperparameters"]


def is_plain(value: Any) -> bool:
    """Whether a value is numbers, words and containers of them."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def save_plain_hyperparameters(module: LightningModule) -> None:
    """Keep the arguments of a module's ``__init__``, which calls this, as far as they are plain.

    The command line's are plain data, networks and optimizers included (class paths). Networks and
    optimizers passed as Python objects are left out; ``load_from_checkpoint`` takes them by name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")
        module.save_hyperparameters(logger=False)
    for name in [name for name, value in module.hparams.items() if not is_plain(value)]:
        del module.hparams[name]
