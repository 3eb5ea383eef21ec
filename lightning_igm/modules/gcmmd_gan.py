"""Gradient-constrained MMD GAN."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.checks import above_zero, positive
from lightning_igm.losses.gradient_constrained import gradient_constrained_mmd2
from lightning_igm.losses.kernels import Gaussian, Kernel
from lightning_igm.modules.discrepancy import DiscrepancyGAN

__all__ = ["GCMMDGAN"]


class GCMMDGAN(DiscrepancyGAN):
    """Gradient-constrained maximum mean discrepancy GAN.

    Eq. 5 and Proposition 3 of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski
    and Gretton, NeurIPS 2018, https://arxiv.org/abs/1805.11565)::

        D = sup { E f(x) - E f(y) : E f(x)^2 + E ||grad f(x)||^2 + lambda ||f||^2 <= 1 }^2

    over functions f of the space of k(x, y) = K(c(x), c(y)), in closed form, with the expectations
    of the constraint over the batch of real images. The price is a linear system of as many rows as
    the global batch has images, times 1 + D features.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: c, maps images to features ``(N, D)`` or ``(N,)``, without batch normalization.
        kernel: K, on the features.
        lam: lambda.
        rank: Largest rank of an incomplete Cholesky factorization, for large batches; None for the
            exact solve.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: An argument is out of range, or the kernel has no second derivative at zero.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = GCMMDGAN(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        kernel: Kernel | None = None,
        lam: float = 1.0,
        rank: int | None = None,
        critic_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.kernel = kernel or Gaussian(1.0)
        _ = self.kernel.scaling_constant, self.kernel.profile(torch.zeros(1))
        self.lam = above_zero("lam", lam)
        self.rank = rank if rank is None else positive("rank", rank)

    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """Square of the gradient-constrained MMD."""
        return gradient_constrained_mmd2(
            self.kernel, self.critic, real, fake, real, self.lam, rank=self.rank
        )
