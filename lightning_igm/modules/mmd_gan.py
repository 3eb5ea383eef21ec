"""MMD GAN: a critic that learns the kernel's features, with the terms that tame it."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_igm.checks import above_zero, non_negative, one_of
from lightning_igm.data.adapter import data_of, stated_by
from lightning_igm.losses.jacobians import features_of, suited
from lightning_igm.losses.kernels import Gaussian, Kernel
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.mmd_gan import one_sided_term
from lightning_igm.losses.penalties import activation_penalty, witness_penalty
from lightning_igm.losses.ratio import mmd_root
from lightning_igm.modules.discrepancy import DiscrepancyGAN
from lightning_igm.networks.autoencoder import AutoencoderCritic
from lightning_igm.networks.base import activations

__all__ = ["MMDGAN"]


class MMDGAN(DiscrepancyGAN):
    """Maximum mean discrepancy GAN, in its two forms.

    "Demystifying MMD GANs" (Bińkowski, Sutherland, Arbel and Gretton, ICLR 2018,
    https://arxiv.org/abs/1801.01401), the form of the defaults::

        D = MMD^2_u of k(x, y) = K(f(x), f(y))
        L_D = -D + gp mean (||grad w(x^)|| - 1)^2 + l2 sum of the layers' mean squares
        L_G = D

    with the witness w(t) = mean_i K(f(t), f(x_i)) - mean_j K(f(t), f(y_j)), x^ uniform on the line
    from x to y, and the norm over all of an image's values. The published MMDGAN-GP-L2 has 16
    features, a mixture of rational quadratic kernels with a linear one, and both weights 1.

    "MMD GAN: Towards Deeper Understanding of Moment Matching Network" (Li, Chang, Cheng, Yang and
    Póczos, NIPS 2017, https://arxiv.org/abs/1705.08584), with a decoder h of the features, as its
    code has it::

        D = sqrt(MMD^2_b) + 16 O,    O = -mean_j max(0, mean_i f(y_i)_j - mean_i f(x_i)_j)
        L_D = -D + 8 mean (x - h(f(x)))^2 + 8 mean (y - h(f(y)))^2
        L_G = D

    where every parameter of f, and none of h, is cut to [-0.01, 0.01] before each critic step. Of
    that form are ``decoder``, ``autoencoder_weight: 8``, ``one_sided_weight: 16``, ``encoder_clip:
    0.01``, ``mmd_root: true`` with ``estimator: biased``, a sum of Gaussians of bandwidths 1, 2, 4,
    8 and 16, and five critic steps that are 100 before each of the first 25 generator steps and of
    every 500th (``critic_burst_steps``, ``critic_burst_start``).

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: f, maps images to features ``(N, D)`` or ``(N,)``.
        kernel: K, on the features.
        gradient_penalty: gp; not with batch normalization in the critic.
        activation_penalty: l2.
        estimator: Of MMD^2.
        critic_steps: Critic steps per generator step.
        decoder: h, maps features ``(N, D)`` to images; the critic's optimizer trains it too.
        autoencoder_weight: Weight of each of the two reconstruction errors.
        one_sided_weight: Weight of O.
        swap_one_sided: Take x for y in O, as the code of Generative Ratio Matching Networks does.
        encoder_clip: Largest absolute value of the critic's parameters; None for no limit.
        mmd_root: Whether D has the root of MMD^2.
        same_batch: Whether all updates of a round, the generator's too, see the same real images
            (and fresh fakes), instead of a batch each.
        **kwargs: The arguments of :class:`~lightning_igm.modules.adversarial.AdversarialModule`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> critic = DCGANCritic(width=8, out_dim=16)
        >>> model = MMDGAN(DCGANGenerator(latent_dim=16, width=8), critic, gradient_penalty=1.0)
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("discrepancy", "gradient_penalty", "activation_penalty", "reconstruction_error")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        kernel: Kernel | None = None,
        gradient_penalty: float = 0.0,
        activation_penalty: float = 0.0,
        estimator: Literal["unbiased", "biased", "u_statistic"] = "unbiased",
        critic_steps: int = 5,
        decoder: nn.Module | None = None,
        autoencoder_weight: float = 8.0,
        one_sided_weight: float = 0.0,
        swap_one_sided: bool = False,
        encoder_clip: float | None = None,
        mmd_root: bool = False,
        same_batch: bool = False,
        **kwargs: Any,
    ) -> None:
        network = critic if decoder is None else AutoencoderCritic(critic, decoder)
        super().__init__(generator, network, critic_steps=critic_steps, **kwargs)
        self.kernel = kernel or Gaussian(1.0)
        self.gradient_penalty = non_negative("gradient_penalty", gradient_penalty)
        self.activation_penalty = non_negative("activation_penalty", activation_penalty)
        self.estimator = one_of("estimator", estimator, ("unbiased", "biased", "u_statistic"))
        self.autoencoder_weight = non_negative("autoencoder_weight", autoencoder_weight)
        self.one_sided_weight = non_negative("one_sided_weight", one_sided_weight)
        self.swap_one_sided = swap_one_sided
        self.encoder_clip = (
            encoder_clip if encoder_clip is None else above_zero("encoder_clip", encoder_clip)
        )
        if mmd_root and estimator != "biased":
            raise ValueError(
                f"estimator: {estimator!r} is not allowed with mmd_root, as it can be negative; it "
                "must be 'biased'"
            )
        self.mmd_root = mmd_root
        self.same_batch = same_batch

    @property
    def encoder(self) -> nn.Module:
        """f, without its decoder."""
        return self.critic.encoder if isinstance(self.critic, AutoencoderCritic) else self.critic

    @property
    def decoder(self) -> nn.Module | None:
        """h; None in the form without."""
        return self.critic.decoder if isinstance(self.critic, AutoencoderCritic) else None

    def setup(self, stage: str) -> None:
        """Check, beyond the base's checks, that the decoder makes images of features."""
        super().setup(stage)
        shape, _ = stated_by(data_of(self.trainer))
        if self.decoder is None or shape is None:
            return
        images = torch.zeros(2, *shape, dtype=self.weights_dtype)
        features = self.try_out("critic", images, "images").view(2, -1)
        decoded = self.try_out("decoder", features, "features")
        if decoded.shape != images.shape:
            raise ValueError(
                f"decoder: its images are {tuple(decoded.shape[1:])} and the data's are "
                f"{tuple(shape)}; set both to the same size"
            )

    @property
    def critic_is_differentiated_once(self) -> bool:
        """Whether it is called as a whole: without penalties, and without a decoder."""
        return not (self.gradient_penalty or self.activation_penalty) and self.decoder is None

    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """D, MMD^2 of the features or its root with the one-sided term."""
        return self._discrepancy(features_of(self.encoder, real), features_of(self.encoder, fake))

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the discrepancy, and the penalties and reconstruction errors."""
        (x, real_layers), (y, fake_layers) = map(self._features_and_layers, (real, fake))
        discrepancy = self._discrepancy(x, y)
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
        if self.decoder is not None:
            error = F.mse_loss(self.decoder(x), real) + F.mse_loss(self.decoder(y), fake)
            self.log_training({"reconstruction_error": error})
            loss = loss + self.autoencoder_weight * error
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One update per batch, or a whole round."""
        if not self.same_batch:
            super().training_step(batch, batch_idx)
            return
        real = self.images_of(batch)
        while self.critic_steps_taken < self.critic_steps_due():
            self.critic_step(real)
        self.generator_step(real)

    def critic_step(self, real: Tensor) -> None:
        """Clip the encoder, and update the critic once; the generator sees what comes out."""
        if self.encoder_clip is not None:
            with torch.no_grad():
                for parameter in self.encoder.parameters():
                    parameter.clamp_(-self.encoder_clip, self.encoder_clip)
        super().critic_step(real)

    def _discrepancy(self, x: Tensor, y: Tensor) -> Tensor:
        discrepancy = mmd2(self.kernel, x, y, estimator=self.estimator)
        if self.mmd_root:
            discrepancy = mmd_root(discrepancy)
        if self.one_sided_weight:
            one_sided = one_sided_term(x, y, swapped=self.swap_one_sided)
            discrepancy = discrepancy + self.one_sided_weight * one_sided
        return discrepancy

    def _features_and_layers(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features ``(N, D)``, and every layer's activations if they are penalised."""
        if not self.activation_penalty:
            return features_of(self.encoder, images), []
        with torch.autocast(images.device.type, enabled=False):
            features, layers = activations(self.encoder, suited(self.encoder, images))
        return features, layers
