"""Scaled MMD GAN: the MMD of a critic's features, scaled down where the critic is steep."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_igm.checks import above_zero, non_negative, one_of, positive
from lightning_igm.losses.jacobians import (
    features_and_squared_jacobian_norms,
    features_of,
    global_rows,
)
from lightning_igm.losses.kernels import Gaussian, Kernel
from lightning_igm.losses.mmd import Estimator, mmd2
from lightning_igm.losses.penalties import interpolates
from lightning_igm.losses.scaled_mmd import smmd_scale, squared_sigma
from lightning_igm.modules.discrepancy import DiscrepancyGAN

__all__ = ["SMMDGAN"]

Scaling = Literal["grad", "value_and_grad", "paper"]
Mu = Literal["real", "fake", "interp", "mix", "noise"]

_NOISE_STD = 10.0


class SMMDGAN(DiscrepancyGAN):
    """Scaled maximum mean discrepancy GAN.

    "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, NeurIPS 2018,
    https://arxiv.org/abs/1805.11565)::

        D = scale MMD^2_u of k(x, y) = K(f(x), f(y))
        scale = 1 / (1 + s E ||grad f||^2)                        grad, as the paper trains
                1 / (1 + s (E ||grad f||^2 + E f^2))              value_and_grad
                1 / (lambda + E k(x, x) + c E ||grad f||^2)       paper, its Eq. 7

    with E over mu, the squared norm over all of an image's values and all features, and c the
    kernel's. The critic's gradient goes through the scale; for the generator it is a constant.
    Over a spectrally parametrized critic (``spectral: learnable``) this is the paper's SN-SMMDGAN.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: f, maps images to features ``(N, D)`` or ``(N,)``, without batch normalization.
        kernel: K, on the features.
        scaling: Which of the above.
        coefficient: s, of ``grad`` and ``value_and_grad``.
        lam: lambda, of ``paper``.
        mu: Where the scale is taken: at ``real`` images, at ``fake`` ones, on the lines between
            them (``interp``), at images of either kind (``mix``), or at ``noise`` from N(0, 100).
        estimator: Of MMD^2.
        critic_steps: Critic steps per generator step.
        jacobian_probes: Number of random vectors for an unbiased estimate of the squared norms
            (Hutchinson's), which costs less where f has more features than that; None for the exact
            norms.
        **kwargs: The arguments of :class:`~lightning_igm.modules.rounds.CriticRounds`.

    Raises:
        ValueError: An argument is out of range, or the kernel has no second derivative at zero.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = SMMDGAN(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("critic_complexity",)

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        kernel: Kernel | None = None,
        scaling: Scaling = "grad",
        coefficient: float = 10.0,
        lam: float = 1.0,
        mu: Mu = "real",
        estimator: Estimator = "unbiased",
        critic_steps: int = 5,
        jacobian_probes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.kernel = kernel or Gaussian(1.0)
        _ = self.kernel.scaling_constant
        self.scaling = one_of("scaling", scaling, get_args(Scaling))
        self.coefficient = above_zero("coefficient", coefficient)
        self.lam = non_negative("lam", lam)
        self.mu = one_of("mu", mu, get_args(Mu))
        self.estimator = one_of("estimator", estimator, get_args(Estimator))
        self.jacobian_probes = (
            None if jacobian_probes is None else positive("jacobian_probes", jacobian_probes)
        )

    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scaled MMD^2."""
        x, scale = self.features_and_scale(real, fake)
        self.log_training({"critic_complexity": 1 / scale})
        return scale * mmd2(
            self.kernel, x, features_of(self.critic, fake), estimator=self.estimator
        )

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The same, with the scale and the real features as constants."""
        with torch.no_grad():
            x, scale = self.features_and_scale(real, fake)
        return scale * mmd2(
            self.kernel, x, features_of(self.critic, fake), estimator=self.estimator
        )

    def features_and_scale(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(N, D)`` of the real images, and the scale ``()``."""
        points = self._points(real, fake)
        features, squared_norms = features_and_squared_jacobian_norms(
            self.critic, points, probes=self.jacobian_probes, generator=self.noise
        )
        x = features if points is real else features_of(self.critic, real)
        if self.scaling == "paper":
            return x, squared_sigma(self.kernel, features, squared_norms, self.lam)
        values = features if self.scaling == "value_and_grad" else None
        return x, smmd_scale(squared_norms, values, self.coefficient)

    def _points(self, real: Tensor, fake: Tensor) -> Tensor:
        """Images of mu, as constants."""
        if self.mu == "real":
            return real
        fake = fake.detach()
        if self.mu == "fake":
            return fake
        if self.mu == "interp":
            return interpolates(real, fake, self.noise)
        shape = real.shape[1:] if self.mu == "noise" else [1] * (real.dim() - 1)

        def draw(rows: int) -> Tensor:
            drawn = torch.empty(rows, *shape, device=self.noise.device, dtype=real.dtype)
            if self.mu == "noise":
                return drawn.normal_(std=_NOISE_STD, generator=self.noise)
            return drawn.bernoulli_(0.5, generator=self.noise)

        drawn = global_rows(real.shape[0], draw).to(real.device)
        return drawn if self.mu == "noise" else torch.where(drawn.bool(), real, fake)
