"""R3GAN: a relativistic loss with zero-centred penalties at reals and at fakes."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.checks import non_negative, positive
from lightning_igm.losses.adversarial import relativistic_critic_loss, relativistic_generator_loss
from lightning_igm.losses.jacobians import check_separate_images
from lightning_igm.losses.penalties import values_and_zero_centred_penalty
from lightning_igm.modules.adversarial import AdversarialModule

__all__ = ["R3GAN"]


class R3GAN(AdversarialModule):
    """Relativistic GAN, regularised by R1 and R2.

    "The GAN is dead; long live the GAN! A Modern Baseline GAN" (Huang, Gokaslan, Kuleshov and
    Tompkin, NeurIPS 2024, https://arxiv.org/abs/2501.05441)::

        L_D = mean softplus(-(f(x_i) - f(y_i))) + gamma / 2 (R1 + R2)
        L_G = mean softplus(-(f(y_i) - f(x_i)))
        R1 = mean ||grad f(x_i)||^2,    R2 = mean ||grad f(y_i)||^2

    with pairs of a real x and a fake y by index, and the norm over all of an image's values. Gamma
    falls by half a cosine to its last value, as the rates of the published presets do. It must be
    found anew for each data set, over four orders of magnitude.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: f, maps images to logits ``(N,)``, without batch normalization.
        penalty_weight: gamma, at first.
        last_penalty_weight: gamma, from ``penalty_steps`` on; the same by default.
        penalty_steps: Generator steps over which it changes.
        fresh_reals: Whether the generator's step takes a batch of its own, as in the released code,
            and not the critic's.
        **kwargs: The arguments of :class:`~lightning_igm.modules.adversarial.AdversarialModule`.

    Raises:
        ValueError: An argument is out of range, or the critic couples images.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = R3GAN(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("r1", "r2", "penalty_weight", "pairs_told")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        penalty_weight: float = 1.0,
        last_penalty_weight: float | None = None,
        penalty_steps: int = 10_000,
        fresh_reals: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, **kwargs)
        check_separate_images(critic)
        self.penalty_weight = non_negative("penalty_weight", penalty_weight)
        last = penalty_weight if last_penalty_weight is None else last_penalty_weight
        self.last_penalty_weight = non_negative("last_penalty_weight", last)
        self.penalty_steps = positive("penalty_steps", penalty_steps)
        self.fresh_reals = fresh_reals

    def gamma(self, step: int) -> float:
        """Weight of the penalties after so many generator steps."""
        done = min(step / self.penalty_steps, 1.0)
        first, last = self.penalty_weight, self.last_penalty_weight
        return last + (first - last) * (1 + math.cos(math.pi * done)) / 2

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_D."""
        real_logits, r1 = values_and_zero_centred_penalty(self.critic, real)
        fake_logits, r2 = values_and_zero_centred_penalty(self.critic, fake.detach())
        gamma = torch.full_like(r1, self.gamma(self.global_step))
        told = (real_logits.detach() > fake_logits.detach()).to(r1.dtype).mean()
        self.log_training({"r1": r1, "r2": r2, "penalty_weight": gamma, "pairs_told": told})
        return relativistic_critic_loss(real_logits, fake_logits) + gamma / 2 * (r1 + r2)

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G."""
        return relativistic_generator_loss(self.critic(real), self.critic(fake))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Steps on one batch, or one step for each batch."""
        if self.fresh_reals and self.critic_steps_taken < self.critic_steps_due():
            self.critic_step(self.images_of(batch))
        else:
            super().training_step(batch, batch_idx)
