"""Scaled Wasserstein GAN: the mean difference, scaled down where the critic is steep."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.checks import above_zero
from lightning_igm.distributed import all_mean
from lightning_igm.losses.jacobians import features_and_squared_jacobian_norms, features_of
from lightning_igm.losses.scaled_mmd import smmd_scale
from lightning_igm.modules.discrepancy import DiscrepancyGAN

__all__ = ["SWGAN"]


class SWGAN(DiscrepancyGAN):
    """Scaled Wasserstein GAN.

    "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, NeurIPS 2018,
    https://arxiv.org/abs/1805.11565): :class:`SMMDGAN` with a linear kernel on one feature, but for
    the root::

        D = sqrt(scale) (mean f(x) - mean f(y))
        scale = 1 / (1 + s (mean ||grad f(x)||^2 + mean f(x)^2))

    Over a spectrally parametrized critic (``spectral: learnable``) this is the paper's SN-SWGAN.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: f, maps images to scores ``(N,)``, without batch normalization.
        coefficient: s.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = SWGAN(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("critic_complexity",)

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        coefficient: float = 10.0,
        critic_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.coefficient = above_zero("coefficient", coefficient)

    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scaled difference of the mean scores."""
        mean, scale = self.mean_and_scale(real)
        self.log_training({"critic_complexity": 1 / scale})
        return scale.sqrt() * (mean - all_mean(features_of(self.critic, fake).mean()))

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The same, with the scale and the real images' mean as constants."""
        with torch.no_grad():
            mean, scale = self.mean_and_scale(real)
        return scale.sqrt() * (mean - all_mean(features_of(self.critic, fake).mean()))

    def mean_and_scale(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Mean score of the real images, and the scale, both ``()``.

        Raises:
            ValueError: The critic has several outputs.
        """
        scores, squared_norms = features_and_squared_jacobian_norms(self.critic, real)
        if scores.shape[1] != 1:
            raise ValueError(
                f"critic: {scores.shape[1]} outputs are not allowed; SWGAN's must have a single one"
            )
        return all_mean(scores.mean()), smmd_scale(squared_norms, scores, self.coefficient)
