"""Implicit generative models on PyTorch Lightning."""

from importlib.metadata import PackageNotFoundError, version

from lightning_igm.modules import (
    GAN,
    GCMMDGAN,
    MMDGAN,
    SMMDGAN,
    SNGAN,
    SWGAN,
    WGANGP,
    AdversarialModule,
    AutoencoderMMDGAN,
    CramerGAN,
    CriticRounds,
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
    "AutoencoderMMDGAN",
    "CramerGAN",
    "CriticRounds",
    "DiscrepancyGAN",
    "GRAMNet",
    "ImplicitGenerativeModule",
    "MMDNet",
    "MoLM",
    "SobolevGAN",
    "__version__",
    "load",
]
