"""Generators and critics; resolution and width are arguments."""

from lightning_igm.networks.all_conv import AllConvCritic, HiddenMomentCritic
from lightning_igm.networks.autoencoder import Autoencoder
from lightning_igm.networks.base import activations
from lightning_igm.networks.dcgan import DCGANCritic, DCGANGenerator
from lightning_igm.networks.dcgan5 import DCGAN5Critic
from lightning_igm.networks.features import DigitFeatures, ImageStatistics, LayerFeatures
from lightning_igm.networks.gram import GRAMCritic, GRAMGenerator, PoolingCritic
from lightning_igm.networks.init import initialize_weights
from lightning_igm.networks.mlp import MLPCritic, MLPGenerator
from lightning_igm.networks.resnet import ResNetCritic, ResNetGenerator
from lightning_igm.networks.sngan import SNGANCritic, SNGANGenerator
from lightning_igm.networks.spectral import advance_spectral_norms, spectral_norm

__all__ = [
    "AllConvCritic",
    "Autoencoder",
    "DCGAN5Critic",
    "DCGANCritic",
    "DCGANGenerator",
    "DigitFeatures",
    "GRAMCritic",
    "GRAMGenerator",
    "HiddenMomentCritic",
    "ImageStatistics",
    "LayerFeatures",
    "MLPCritic",
    "MLPGenerator",
    "PoolingCritic",
    "ResNetCritic",
    "ResNetGenerator",
    "SNGANCritic",
    "SNGANGenerator",
    "activations",
    "advance_spectral_norms",
    "initialize_weights",
    "spectral_norm",
]
