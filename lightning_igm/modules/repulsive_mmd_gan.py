"""Repulsive MMD GAN: a critic that keeps the features of real images apart."""

from typing import Any

from torch import Tensor, nn

from lightning_igm.checks import above_zero
from lightning_igm.losses.jacobians import features_of
from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.repulsive import check_repulsion, repulsive_critic_loss
from lightning_igm.modules.discrepancy import DiscrepancyGAN

__all__ = ["RepulsiveMMDGAN"]


class RepulsiveMMDGAN(DiscrepancyGAN):
    """MMD GAN whose players do not share a discrepancy.

    "Improving MMD-GAN Training with Repulsive Loss Function" (Wang, Sun and Halgamuge, ICLR 2019,
    https://arxiv.org/abs/1812.09916), with k a Gaussian kernel of the critic's features a of reals
    and b of fakes, and means over pairs of different indices, the mixed ones too::

        L_D = (w + 1) mean k(a, b) - mean k(b, b) - w mean k(a, a)
        L_G = mean k(a, a) + mean k(b, b) - 2 mean k(a, b)

    With w = -1, the repulsive loss, the critic pushes features of reals apart and pulls those of
    fakes together. Bounded, pairs of reals that are far already and pairs of fakes that are near
    already do not move it. The published critic has 16 features and spectral normalization.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images to features ``(N, D)`` or ``(N,)``.
        bandwidth: Of k.
        weight: w, from -1 to 1; with ``bounded`` it must be -1.
        bounded: Whether L_D is bounded; L_G is not.
        lower: Squared distance of fakes that counts as near.
        upper: Squared distance of reals that counts as far.
        **kwargs: The arguments of :class:`~lightning_igm.modules.adversarial.AdversarialModule`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> critic = DCGANCritic(width=8, out_dim=16, spectral="fixed")
        >>> model = RepulsiveMMDGAN(DCGANGenerator(latent_dim=16, width=8), critic)
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        bandwidth: float = 1.0,
        weight: float = -1.0,
        bounded: bool = True,
        lower: float = 0.25,
        upper: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, **kwargs)
        check_repulsion(weight, bounded, lower, upper)
        self.bandwidth = above_zero("bandwidth", bandwidth)
        self.weight, self.bounded = weight, bounded
        self.lower, self.upper = lower, upper

    @property
    def critic_is_differentiated_once(self) -> bool:
        """It is."""
        return True

    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G, the MMD^2 of the features without a bound."""
        a, b = features_of(self.critic, real), features_of(self.critic, fake)
        return mmd2(Gaussian(self.bandwidth), a, b, estimator="u_statistic")

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_D."""
        return repulsive_critic_loss(
            features_of(self.critic, real),
            features_of(self.critic, fake),
            weight=self.weight,
            bounded=self.bounded,
            bandwidth=self.bandwidth,
            lower=self.lower,
            upper=self.upper,
        )

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G."""
        discrepancy = self.discrepancy(real, fake)
        self.log_training({"discrepancy": discrepancy})
        return discrepancy
