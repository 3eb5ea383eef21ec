"""One method per file, each a LightningModule."""

from lightning_igm.modules.adversarial import AdversarialModule
from lightning_igm.modules.base import ImplicitGenerativeModule, NonFiniteLossError
from lightning_igm.modules.cramer_gan import CramerGAN
from lightning_igm.modules.discrepancy import DiscrepancyGAN
from lightning_igm.modules.drifting_model import DriftingModel
from lightning_igm.modules.feature_matching import FeatureMatching
from lightning_igm.modules.gan import GAN
from lightning_igm.modules.gcmmd_gan import GCMMDGAN
from lightning_igm.modules.gram_net import GRAMNet
from lightning_igm.modules.mmd_gan import MMDGAN
from lightning_igm.modules.mmd_gan_autoencoder import AutoencoderMMDGAN
from lightning_igm.modules.mmd_net import MMDNet
from lightning_igm.modules.molm import MoLM
from lightning_igm.modules.r3_gan import R3GAN
from lightning_igm.modules.repulsive_mmd_gan import RepulsiveMMDGAN
from lightning_igm.modules.rounds import CriticRounds
from lightning_igm.modules.smmd_gan import SMMDGAN
from lightning_igm.modules.sn_gan import SNGAN
from lightning_igm.modules.sobolev_gan import SobolevGAN
from lightning_igm.modules.sw_gan import SWGAN
from lightning_igm.modules.wgan_gp import WGANGP

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
    "AutoencoderMMDGAN",
    "CramerGAN",
    "CriticRounds",
    "DiscrepancyGAN",
    "DriftingModel",
    "FeatureMatching",
    "GRAMNet",
    "ImplicitGenerativeModule",
    "MMDNet",
    "MoLM",
    "NonFiniteLossError",
    "RepulsiveMMDGAN",
    "SobolevGAN",
]
