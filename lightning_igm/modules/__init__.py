"""One method per file, each a LightningModule."""

from lightning_igm.modules.adversarial import AdversarialModule
from lightning_igm.modules.base import ImplicitGenerativeModule, NonFiniteLossError
from lightning_igm.modules.gan import GAN
from lightning_igm.modules.molm import MoLM

__all__ = ["GAN", "AdversarialModule", "ImplicitGenerativeModule", "MoLM", "NonFiniteLossError"]
