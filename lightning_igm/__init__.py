"""Implicit generative models on PyTorch Lightning."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_igm.modules import (
        GAN,
        GCMMDGAN,
        MMDGAN,
        SMMDGAN,
        SNGAN,
        SWGAN,
        WGANGP,
        AdversarialModule,
        CramerGAN,
        DiscrepancyGAN,
        GRAMNet,
        ImplicitGenerativeModule,
        MMDNet,
        MoLM,
        SobolevGAN,
    )
    from lightning_igm.runs.load import load

try:
    __version__ = version("lightning-igm")
except PackageNotFoundError:
    __version__ = "0.0.0"

__all__ = [
    "GAN",
    "GCMMDGAN",
    "MMDGAN",
    "SMMDGAN",
    "SNGAN",
    "SWGAN",
    "WGANGP",
    "AdversarialModule",
    "CramerGAN",
    "DiscrepancyGAN",
    "GRAMNet",
    "ImplicitGenerativeModule",
    "MMDNet",
    "MoLM",
    "SobolevGAN",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """A method, or ``load``, when it is first asked for: losses and networks need no Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "lightning_igm.runs.load" if name == "load" else "lightning_igm.modules"
    globals()[name] = found = getattr(import_module(module), name)
    return found
