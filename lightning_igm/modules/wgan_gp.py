"""Wasserstein GAN with a penalty on the critic's gradient."""

from typing import Any

from torch import Tensor, nn

from lightning_igm.checks import non_negative
from lightning_igm.losses.adversarial import wasserstein_critic_loss, wasserstein_generator_loss
from lightning_igm.losses.penalties import gradient_penalty
from lightning_igm.modules.rounds import CriticRounds

__all__ = ["WGANGP"]


class WGANGP(CriticRounds):
    """Wasserstein GAN with gradient penalty.

    Algorithm 1 of "Improved Training of Wasserstein GANs" (Gulrajani et al., NeurIPS 2017,
    https://arxiv.org/abs/1704.00028)::

        L_D = mean f(y) - mean f(x) + lambda mean (||grad f(x^)|| - 1)^2
        L_G = -mean f(y)

    with x^ uniform on the line from x to y, and the norm over all of an image's values.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images to scores ``(N,)``, without batch normalization.
        penalty_weight: lambda; 0 for a critic that is constrained by other means.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = WGANGP(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
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

    @property
    def critic_is_differentiated_once(self) -> bool:
        """Whether there is no penalty."""
        return self.penalty_weight == 0

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the Wasserstein objective, and the penalty."""
        loss = wasserstein_critic_loss(self.critic(real), self.critic(fake))
        if self.penalty_weight == 0:
            return loss
        penalty = gradient_penalty(self.critic, real, fake, self.noise)
        self.log_training({"gradient_penalty": penalty})
        return loss + self.penalty_weight * penalty

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the critic's mean score."""
        return wasserstein_generator_loss(self.critic(fake))
