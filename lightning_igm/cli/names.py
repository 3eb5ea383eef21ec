"""The names that the command line knows, and the nearest of them."""

import inspect
from collections.abc import Sequence
from difflib import get_close_matches

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import torch

from lightning_igm import callbacks, data, modules, networks
from lightning_igm.losses import fields, kernels
from lightning_igm.modules.players import UNFIT_SCHEDULES

__all__ = ["KNOWN_CLASSES", "KNOWN_TO_LIGHTNING", "did_you_mean", "is_method"]


def is_method(candidate: type) -> bool:
    """Whether a class is a method, and not a base class of methods."""
    bases = modules.ImplicitGenerativeModule
    return issubclass(candidate, bases) and not inspect.isabstract(candidate)


# Not the bases, nor those that need a closure or sparse gradients.
_NO_OPTIMIZERS = ("Optimizer", "LBFGS", "SparseAdam")
_OPTIMIZERS = [n for n in torch.optim.__all__ if n[0].isupper() and n not in _NO_OPTIMIZERS]
_NO_SCHEDULES = ("LRScheduler", *UNFIT_SCHEDULES)
_SCHEDULES = [n for n in torch.optim.lr_scheduler.__all__ if n not in _NO_SCHEDULES]
_BASES = ("ImageDataModule", "InMemoryDataModule")
KNOWN_CLASSES = {
    "model": [name for name in modules.__all__ if is_method(getattr(modules, name))],
    "data": [name for name in data.__all__ if name.endswith("DataModule") and name not in _BASES],
    "generator": [name for name in networks.__all__ if name.endswith("Generator")],
    "critic": [name for name in networks.__all__ if name.endswith("Critic")],
    "decoder": [name for name in networks.__all__ if name.endswith("Generator")],
    "autoencoder": ["Autoencoder"],
    "features": ["DigitFeatures", "ImageStatistics", "LayerFeatures"],
    "field": [name for name in fields.__all__ if name.endswith("Field") and name != "Field"],
    "generator_optimizer": _OPTIMIZERS,
    "critic_optimizer": _OPTIMIZERS,
    "generator_scheduler": _SCHEDULES,
    "critic_scheduler": _SCHEDULES,
    "callbacks": callbacks.__all__,
    "logger": ["WandbLogger", "TensorBoardLogger", "CSVLogger"],
    "kernel": [name for name in kernels.__all__ if name not in ("Kernel", "Pairs")],
}
# They are found by name, too.
KNOWN_TO_LIGHTNING = {
    "callbacks": [n for n in lightning.pytorch.callbacks.__all__ if n != "Callback"],
    "logger": [n for n in lightning.pytorch.loggers.__all__ if n != "Logger"],
}


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The nearest of the words that are known, as a question before a list of them; or nothing.

    Example:
        >>> did_you_mean("MolM", ["GAN", "MoLM"])
        'did you mean MoLM? '
    """
    spelled = {name.lower(): name for name in known if word not in known}
    word = word.rpartition(".")[2].lower()
    near = get_close_matches(word, spelled)
    near.sort(key=lambda name: sorted(name) != sorted(word))  # Letters that changed places.
    return f"did you mean {spelled[near[0]]}? " if near else ""
