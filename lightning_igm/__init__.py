"""Implicit generative models on PyTorch Lightning."""

from importlib.metadata import PackageNotFoundError, version

from lightning_igm.modules import GAN, AdversarialModule, ImplicitGenerativeModule, MoLM

try:
    __version__ = version("lightning-igm")
except PackageNotFoundError:
    __version__ = "0.0.0"

__all__ = ["GAN", "AdversarialModule", "ImplicitGenerativeModule", "MoLM", "__version__"]
