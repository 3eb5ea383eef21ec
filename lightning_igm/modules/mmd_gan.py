"""MMD GAN: a critic that learns the kernel's features, with the penalties that tame it."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_igm.checks import non_negative, one_of
from lightning_igm.losses.jacobians import features_of, suited
from lightning_igm.losses.kernels import Gaussian, Kernel
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.penalties import activation_penalty, witness_penalty
from lightning_igm.losses.ratio import mmd_root
from lightning_igm.modules.discrepancy import DiscrepancyGAN
from lightning_igm.networks.base import activations

__all__ = ["MMDGAN"]

Seen = tuple[Tensor, list[Tensor]]
"""Features ``(N, D)`` of a batch; and activations of every layer, if they are penalised."""


class MMDGAN(DiscrepancyGAN):
    """Maximum mean discrepancy GAN.

    "Demystifying MMD GANs" (Bińkowski, Sutherland, Arbel and Gretton, ICLR 2018,
    https://arxiv.org/abs/1801.01401)::

        D = MMD^2_u of k(x, y) = K(f(x), f(y))
        L_D = -D + gp mean (||grad w(x^)|| - 1)^2 + l2 sum of the layers' mean squares
        L_G = D

    with the witness w(t) = mean_i K(f(t), f(x_i)) - mean_j K(f(t), f(y_j)), x^ uniform on the line
    from x to y, and the norm over all of an image's values. The published MMDGAN-GP-L2 has 16
    features, a mixture of rational quadratic kernels with a linear one, and both weights 1. The
    MMD GAN of Li et al. is :class:`~lightning_igm.modules.mmd_gan_autoencoder.AutoencoderMMDGAN`.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: f, maps images to features ``(N, D)`` or ``(N,)``.
        kernel: K, on the features.
        gradient_penalty: gp; not with batch normalization in the critic.
        activation_penalty: l2.
        estimator: Of MMD^2.
        critic_steps: Critic steps per generator step.
        mmd_root: Whether D is the root of MMD^2.
        same_batch: Whether all updates of a round, the generator's too, see the same real images
            (and fresh fakes), instead of a batch each.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> critic = DCGANCritic(width=8, out_dim=16)
        >>> model = MMDGAN(DCGANGenerator(latent_dim=16, width=8), critic, gradient_penalty=1.0)
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged: tuple[str, ...] = ("discrepancy", "gradient_penalty", "activation_penalty")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        kernel: Kernel | None = None,
        gradient_penalty: float = 0.0,
        activation_penalty: float = 0.0,
        estimator: Literal["unbiased", "biased", "u_statistic"] = "unbiased",
        critic_steps: int = 5,
        mmd_root: bool = False,
        same_batch: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.kernel = kernel or Gaussian(1.0)
        self.gradient_penalty = non_negative("gradient_penalty", gradient_penalty)
        self.activation_penalty = non_negative("activation_penalty", activation_penalty)
        self.estimator = one_of("estimator", estimator, ("unbiased", "biased", "u_statistic"))
        if mmd_root and estimator != "biased":
            raise ValueError(
                f"estimator: {estimator!r} is not allowed with mmd_root, as it can be negative; it "
                "must be 'biased'"
            )
        self.mmd_root = mmd_root
        self.same_batch = same_batch

    @property
    def encoder(self) -> nn.Module:
        """F."""
        return self.critic

    @property
    def critic_is_differentiated_once(self) -> bool:
        """Whether it is called as a whole: without penalties."""
        return not (self.gradient_penalty or self.activation_penalty)

    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """D."""
        return self.of_features(features_of(self.encoder, real), features_of(self.encoder, fake))

    def of_features(self, x: Tensor, y: Tensor) -> Tensor:
        """D, of features ``(N, D)``."""
        squared = mmd2(self.kernel, x, y, estimator=self.estimator)
        return mmd_root(squared) if self.mmd_root else squared

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the discrepancy, and the penalties."""
        return self._critic_loss(real, fake, self._seen(real), self._seen(fake))

    def _critic_loss(self, real: Tensor, fake: Tensor, of_real: Seen, of_fake: Seen) -> Tensor:
        (x, real_layers), (y, fake_layers) = of_real, of_fake
        discrepancy = self.of_features(x, y)
        self.log_training({"discrepancy": discrepancy})
        loss = -discrepancy
        if self.gradient_penalty:
            penalty = witness_penalty(
                self.kernel, self.encoder, real, fake, self.noise, features=(x, y)
            )
            self.log_training({"gradient_penalty": penalty})
            loss = loss + self.gradient_penalty * penalty
        if self.activation_penalty:
            penalty = activation_penalty(real_layers + fake_layers)
            self.log_training({"activation_penalty": penalty})
            loss = loss + self.activation_penalty * penalty
        return loss

    def _seen(self, images: Tensor) -> Seen:
        if not self.activation_penalty:
            return features_of(self.encoder, images), []
        with torch.autocast(images.device.type, enabled=False):
            return activations(self.encoder, suited(self.encoder, images))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One update per batch, or a whole round."""
        if not self.same_batch:
            super().training_step(batch, batch_idx)
            return
        real = self.images_of(batch)
        while self.critic_steps_taken < self.critic_steps_due():
            self.critic_step(real)
        self.generator_step(real)
