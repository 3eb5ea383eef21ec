"""Cramér GAN: the energy distance between features."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.checks import non_negative
from lightning_igm.losses.cramer import cramer_critic_loss, cramer_generator_loss, cramer_penalty
from lightning_igm.losses.jacobians import features_of
from lightning_igm.modules.rounds import CriticRounds

__all__ = ["CramerGAN"]


class CramerGAN(CriticRounds):
    """Cramér GAN.

    Algorithm 1 of "The Cramer Distance as a Solution to Biased Wasserstein Gradients" (Bellemare et
    al., 2017, https://arxiv.org/abs/1705.10743), with two independent batches of fakes y, y' and
    c(a, b) = ||f(a) - f(b)|| - ||f(a)||::

        L_D = -mean [c(x, y) - c(y', y)] + lambda mean (||grad_x^ c(x^, y)|| - 1)^2
        L_G = mean [||f(x) - f(y)|| + ||f(x) - f(y')|| - ||f(y) - f(y')||]

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images to features ``(N, D)``, without batch normalization; D is 256 in
            "Demystifying MMD GANs".
        penalty_weight: lambda.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> critic = DCGANCritic(width=8, out_dim=256)
        >>> model = CramerGAN(DCGANGenerator(latent_dim=16, width=8), critic)
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("gradient_penalty",)

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        penalty_weight: float = 10.0,
        critic_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.penalty_weight = non_negative("penalty_weight", penalty_weight)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the surrogate of the energy distance, and the penalty."""
        with torch.no_grad():
            other = self.generate(fake.shape[0])
        x, y, y2 = (features_of(self.critic, images) for images in (real, fake, other))
        loss = cramer_critic_loss(x, y, y2)
        if self.penalty_weight == 0:
            return loss
        penalty = cramer_penalty(self.critic, real, fake, self.noise, fake_features=y)
        self.log_training({"gradient_penalty": penalty})
        return loss + self.penalty_weight * penalty

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The energy distance."""
        other = self.generate(fake.shape[0])
        x, y, y2 = (features_of(self.critic, images) for images in (real, fake, other))
        return cramer_generator_loss(x, y, y2)
