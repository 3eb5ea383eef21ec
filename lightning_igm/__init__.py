"""Implicit generative models on PyTorch Lightning."""

from importlib.metadata import PackageNotFoundError, version

from lightning_igm.modules import (
    GAN,
    GCMMDGAN,
    MMDGAN,
    R3GAN,
    SMMDGAN,
    SNGAN,
    SWGAN,
    WGANGP,
    AdversarialModule,
    CramerGAN,
    DiscrepancyGAN,
    DriftingModel,
    FeatureMatching,
    GRAMNet,
    ImplicitGenerativeModule,
    MMDNet,
    MoLM,
    RepulsiveMMDGAN,
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
    "R3GAN",
    "SMMDGAN",
    "SNGAN",
    "SWGAN",
    "WGANGP",
    "AdversarialModule",
    "CramerGAN",
    "DiscrepancyGAN",
    "DriftingModel",
    "FeatureMatching",
    "GRAMNet",
    "ImplicitGenerativeModule",
    "MMDNet",
    "MoLM",
    "RepulsiveMMDGAN",
    "SobolevGAN",
    "__version__",
    "load",
]
