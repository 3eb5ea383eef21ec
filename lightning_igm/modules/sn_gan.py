"""Spectrally normalised GAN."""

from typing import Any

from torch import nn

from lightning_igm.modules.gan import GAN
from lightning_igm.networks.spectral import SpectralParametrization

__all__ = ["SNGAN"]


class SNGAN(GAN):
    """Spectrally normalised GAN: the non-saturating GAN over a critic of bounded layers.

    "Spectral Normalization for Generative Adversarial Networks" (Miyato et al., ICLR 2018,
    https://arxiv.org/abs/1802.05957). The normalisation is the critic's: build it with
    ``spectral: fixed`` (the paper's) or ``spectral: learnable``.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images to logits ``(N,)``, spectrally normalised.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: The critic is not spectrally normalised, or an argument is out of range.
    """

    def __init__(
        self, generator: nn.Module, critic: nn.Module, critic_steps: int = 5, **kwargs: Any
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        if not any(isinstance(module, SpectralParametrization) for module in critic.modules()):
            raise ValueError(
                f"critic: a {type(critic).__name__} without spectral normalization is not allowed; "
                "set critic.init_args.spectral to 'fixed' or 'learnable'"
            )
