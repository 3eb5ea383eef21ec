"""The non-saturating GAN, the first baseline."""

from torch import Tensor

from lightning_igm.losses.adversarial import logistic_critic_loss, non_saturating_generator_loss
from lightning_igm.modules.rounds import CriticRounds

__all__ = ["GAN"]


class GAN(CriticRounds):
    """Generative adversarial network with the non-saturating generator loss.

    Algorithm 1 and section 3 of "Generative Adversarial Networks" (Goodfellow et al., 2014,
    https://arxiv.org/abs/1406.2661); over convolutional networks, DCGAN (Radford, Metz and
    Chintala, 2016, https://arxiv.org/abs/1511.06434). Arguments are those of
    :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = GAN(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    @property
    def critic_is_differentiated_once(self) -> bool:
        """It is; a subclass with a penalty on gradients must say that it is not."""
        return True

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Cross-entropy of telling real from fake."""
        return logistic_critic_loss(self.critic(real), self.critic(fake))

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Surprise of the critic at the fakes being real."""
        return non_saturating_generator_loss(self.critic(fake))
