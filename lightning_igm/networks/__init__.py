"""Generators and critics; resolution and width are arguments."""

from lightning_igm.networks.all_conv import AllConvCritic, HiddenMomentCritic
from lightning_igm.networks.dcgan import DCGANCritic, DCGANGenerator
from lightning_igm.networks.init import initialize_weights

__all__ = [
    "AllConvCritic",
    "DCGANCritic",
    "DCGANGenerator",
    "HiddenMomentCritic",
    "initialize_weights",
]
