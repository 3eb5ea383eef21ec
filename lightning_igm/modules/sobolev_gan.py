"""Sobolev GAN: the critic's mean squared gradient held at 1 by an augmented Lagrangian."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.checks import above_zero, non_negative
from lightning_igm.losses.adversarial import wasserstein_critic_loss, wasserstein_generator_loss
from lightning_igm.losses.penalties import values_and_sobolev_constraint
from lightning_igm.modules.rounds import CriticRounds
from lightning_igm.networks.spectral import raw_weight

__all__ = ["SobolevGAN"]


class SobolevGAN(CriticRounds):
    """Sobolev GAN.

    "Sobolev GAN" (Mroueh, Li, Sercu, Raj and Cheng, ICLR 2018, https://arxiv.org/abs/1711.04894),
    in the form that "On gradient regularizers for MMD GANs" (Arbel et al., NeurIPS 2018,
    https://arxiv.org/abs/1805.11565) compares with::

        Omega = E_x ||grad f(x)||^2 / 2 + E_y ||grad f(y)||^2 / 2 - 1
        L_D = mean f(y) - mean f(x) + Lambda Omega + rho / 2 Omega^2 + decay
        Lambda <- Lambda + rho Omega    after each critic step
        L_G = -mean f(y)

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images to scores ``(N,)``, without batch normalization.
        rho: Weight of the quadratic term, and rate of the multiplier. The papers' is not published.
        weight_decay: Weight of the squared parameters of all layers but the last.
        last_weight_decay: Weight of the last linear layer's.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Attributes:
        multiplier: Lambda ``()``, in the checkpoint.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = SobolevGAN(DCGANGenerator(width=8), DCGANCritic(width=8), rho=1e-4)
        >>> model.multiplier
        tensor(0.)
    """

    multiplier: Tensor

    logged = ("sobolev_constraint", "multiplier")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        rho: float,
        weight_decay: float = 1e-6,
        last_weight_decay: float = 1e-3,
        critic_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.rho = above_zero("rho", rho)
        self.weight_decay = non_negative("weight_decay", weight_decay)
        self.last_weight_decay = non_negative("last_weight_decay", last_weight_decay)
        self.register_buffer("multiplier", torch.zeros(()))
        self._constraint: Tensor | None = None

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The augmented Lagrangian of the constraint Omega = 0."""
        on_real, on_fake, constraint = values_and_sobolev_constraint(self.critic, real, fake)
        self._constraint = constraint.detach()
        self.log_training({"sobolev_constraint": constraint, "multiplier": self.multiplier})
        loss = wasserstein_critic_loss(on_real, on_fake)
        loss = loss + self.multiplier * constraint + self.rho / 2 * constraint.square()
        return loss + self._decay()

    def critic_step(self, real: Tensor) -> None:
        """Update the critic once, then the multiplier."""
        super().critic_step(real)
        if self._constraint is not None:
            self.multiplier += self.rho * self._constraint

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the critic's mean score."""
        return wasserstein_generator_loss(self.critic(fake))

    def _decay(self) -> Tensor:
        last = [module for module in self.critic.modules() if isinstance(module, nn.Linear)][-1:]
        strongly = {id(p) for layer in last for p in (raw_weight(layer), layer.bias)}
        terms = [
            (self.last_weight_decay if id(parameter) in strongly else self.weight_decay)
            * parameter.square().sum()
            for parameter in self.critic.parameters()
        ]
        return torch.stack(terms).sum()
