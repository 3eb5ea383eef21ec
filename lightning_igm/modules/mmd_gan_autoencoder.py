"""The MMD GAN whose critic is an autoencoder."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_igm.checks import above_zero, non_negative
from lightning_igm.data.adapter import data_of, stated_by
from lightning_igm.losses.kernels import Kernel
from lightning_igm.losses.mmd_gan import one_sided_term
from lightning_igm.modules.mmd_gan import MMDGAN, Seen
from lightning_igm.networks.autoencoder import AutoencoderCritic

__all__ = ["AutoencoderMMDGAN"]


class AutoencoderMMDGAN(MMDGAN):
    """Maximum mean discrepancy GAN with a decoder of the critic's features.

    "MMD GAN: Towards Deeper Understanding of Moment Matching Network" (Li, Chang, Cheng, Yang and
    Póczos, NIPS 2017, https://arxiv.org/abs/1705.08584), as its code has it::

        D = sqrt(MMD^2_b) + 16 O,    O = -mean_j max(0, mean_i f(y_i)_j - mean_i f(x_i)_j)
        L_D = -D + 8 mean (x - h(f(x)))^2 + 8 mean (y - h(f(y)))^2
        L_G = D

    where every parameter of f, and none of h, is cut to [-0.01, 0.01] before each critic step. Of
    that form are ``one_sided_weight: 16``, ``encoder_clip: 0.01``, ``mmd_root: true`` with
    ``estimator: biased``, a sum of Gaussians of bandwidths 1, 2, 4, 8 and 16, and five critic steps
    that are 100 before each of the first 25 generator steps and of every 500th
    (``critic_burst_steps``, ``critic_burst_start``).

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: f, maps images to features ``(N, D)`` or ``(N,)``.
        decoder: h, maps features ``(N, D)`` to images; the critic's optimizer trains it too.
        kernel: K, on the features.
        autoencoder_weight: Weight of each of the two reconstruction errors.
        one_sided_weight: Weight of O.
        swap_one_sided: Take x for y in O, as the code of Generative Ratio Matching Networks does.
        encoder_clip: Largest absolute value of the critic's parameters; None for no limit.
        estimator: Of MMD^2.
        mmd_root: Whether D has the root of MMD^2.
        **kwargs: The arguments of :class:`~lightning_igm.modules.mmd_gan.MMDGAN`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> decoder = DCGANGenerator(latent_dim=5, width=8, batch_norm=False)
        >>> critic = DCGANCritic(width=8, out_dim=5)
        >>> model = AutoencoderMMDGAN(DCGANGenerator(latent_dim=16, width=8), critic, decoder)
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("reconstruction_error",)

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        decoder: nn.Module,
        kernel: Kernel | None = None,
        autoencoder_weight: float = 8.0,
        one_sided_weight: float = 0.0,
        swap_one_sided: bool = False,
        encoder_clip: float | None = None,
        estimator: Literal["unbiased", "biased", "u_statistic"] = "unbiased",
        mmd_root: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            generator,
            AutoencoderCritic(critic, decoder),
            kernel=kernel,
            estimator=estimator,
            mmd_root=mmd_root,
            **kwargs,
        )
        self.autoencoder_weight = non_negative("autoencoder_weight", autoencoder_weight)
        self.one_sided_weight = non_negative("one_sided_weight", one_sided_weight)
        self.swap_one_sided = swap_one_sided
        self.encoder_clip = (
            encoder_clip if encoder_clip is None else above_zero("encoder_clip", encoder_clip)
        )

    @property
    def encoder(self) -> nn.Module:
        """f, without its decoder."""
        encoder: nn.Module = self.critic.encoder  # type: ignore[assignment]
        return encoder

    @property
    def decoder(self) -> nn.Module:
        """H."""
        decoder: nn.Module = self.critic.decoder  # type: ignore[assignment]
        return decoder

    @property
    def critic_is_differentiated_once(self) -> bool:
        """It is not called as a whole."""
        return False

    def setup(self, stage: str) -> None:
        """Check, beyond the base's checks, that the decoder makes images of features."""
        super().setup(stage)
        shape, _ = stated_by(data_of(self.trainer))
        if shape is None:
            return
        images = torch.zeros(2, *shape, dtype=self.weights_dtype)
        features = self.try_out("critic", images, "images").view(2, -1)
        decoded = self.try_out("decoder", features, "features")
        if decoded.shape != images.shape:
            raise ValueError(
                f"decoder: its images are {tuple(decoded.shape[1:])} and the data's are "
                f"{tuple(shape)}; set both to the same size"
            )

    def of_features(self, x: Tensor, y: Tensor) -> Tensor:
        """D, of features ``(N, D)``."""
        discrepancy = super().of_features(x, y)
        if self.one_sided_weight:
            one_sided = one_sided_term(x, y, swapped=self.swap_one_sided)
            discrepancy = discrepancy + self.one_sided_weight * one_sided
        return discrepancy

    def _critic_loss(self, real: Tensor, fake: Tensor, of_real: Seen, of_fake: Seen) -> Tensor:
        loss = super()._critic_loss(real, fake, of_real, of_fake)
        (x, _), (y, _) = of_real, of_fake
        error = F.mse_loss(self.decoder(x), real) + F.mse_loss(self.decoder(y), fake)
        self.log_training({"reconstruction_error": error})
        return loss + self.autoencoder_weight * error

    def critic_step(self, real: Tensor) -> None:
        """Clip the encoder, and update the critic once; the generator sees what comes out."""
        if self.encoder_clip is not None:
            with torch.no_grad():
                for parameter in self.encoder.parameters():
                    parameter.clamp_(-self.encoder_clip, self.encoder_clip)
        super().critic_step(real)
