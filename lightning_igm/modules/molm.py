"""Method of Learned Moments: match the gradients of a critic, learn the critic now and then."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_igm.checks import non_negative, one_of, positive
from lightning_igm.data.adapter import whole_data
from lightning_igm.distributed import all_mean, all_sum, world_size
from lightning_igm.losses.adversarial import logistic_critic_loss
from lightning_igm.losses.moments import (
    check_moment_network,
    logits_and_squared_norms,
    mean_moments,
    moment_statistics,
)
from lightning_igm.modules.adversarial import AdversarialModule
from lightning_igm.modules.phase_report import begin_report, end_report
from lightning_igm.modules.players import Player
from lightning_igm.modules.set_up import check_independent_images
from lightning_igm.modules.training_set import training_images

__all__ = ["MoLM"]


class MoLM(AdversarialModule):
    """Method of Learned Moments.

    Algorithm 1 of "Learning Implicit Generative Models with Method of Learned Moments" (Ravuri,
    Mohamed, Rosca and Vinyals, NIPS workshop 2017), in the form that its text describes::

        for t = 0, 1, ..., N_t - 1:
            if t mod N_c = 0:
                N_d times:  phi <- Adam(phi, grad_phi L_D)
                m_data <- mean of Phi(x) over the whole training set
            theta <- Adam(theta, grad_theta L_G)

    with the moments Phi(x) = grad_phi f_phi(x) of the critic's logit f, one for each of its k
    parameters, and

        L_G = 1/2 ||mean Phi(g(z)) - m_data||^2                                            (Eq. 1)
        L_D = -log D(x) - log(1 - D(g(z))) + lambda (mean ||Phi(x)||^2 / k - 1)^2          (Eq. 2)

    (Eq. 2 with the signs of a loss to be minimised). Algorithm 1 as it is printed, where a critic
    phase stands in the place of a generator step, is ``critic_interval: 1999`` with one generator
    step less per block, but for its last phase, which nothing uses.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images to logits ``(N,)``; of Linear and Conv2d layers, without batch
            normalization or dropout.
        critic_steps: N_d, critic steps in a phase.
        critic_interval: N_c, generator steps from one critic phase to the next.
        penalty_weight: lambda.
        learn_moments: If false, the critic keeps its random weights: the paper's baseline of random
            moments.
        estimator: Of L_G. ``one_batch`` is the paper's; its expectation exceeds L_G by the trace of
            the moments' covariance over 2 B. ``two_batch`` is unbiased by two independent batches
            of fakes, <m_1 - m_data, m_2 - m_data> / 2. ``u_statistic`` is unbiased by leaving the
            pairs of a fake with itself out, which needs independent fakes: no batch normalization
            in the generator.
        hidden_weight: If not 0, the critic's hidden activations, times this weight, are moments too
            (the ICML 2018 version, https://arxiv.org/abs/1806.11006).
        pixel_weight: The same for the pixels.
        **kwargs: The arguments of :class:`~lightning_igm.modules.adversarial.AdversarialModule`.

    Raises:
        ValueError: An argument is out of range, or a network does not suit the method.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = MoLM(DCGANGenerator(latent_dim=16, width=8), DCGANCritic(width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("mean_squared_moment",)
    kept = ("data_moments", "features", "before_phase")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        critic_steps: int = 100,
        critic_interval: int = 2000,
        penalty_weight: float = 1.0,
        learn_moments: bool = True,
        estimator: Literal["one_batch", "two_batch", "u_statistic"] = "one_batch",
        hidden_weight: float = 0.0,
        pixel_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=critic_steps, **kwargs)
        self.critic_interval = positive("critic_interval", critic_interval)
        self.penalty_weight = non_negative("penalty_weight", penalty_weight)
        self.learn_moments = learn_moments
        self.estimator = one_of("estimator", estimator, ("one_batch", "two_batch", "u_statistic"))
        self.hidden_weight = non_negative("hidden_weight", hidden_weight)
        self.pixel_weight = non_negative("pixel_weight", pixel_weight)
        check_moment_network(critic)
        if not learn_moments:  # A schedule of an optimizer that never steps is a mistake to torch.
            self.players["critic"] = Player(self.players["critic"].optimizer)
        if estimator == "u_statistic":
            check_independent_images("estimator", generator)
        self.data_moments: Tensor | None = None
        """Mean moments ``(k,)`` of the whole training set; None from a critic step to the next
        generator step."""
        self.before_phase: dict[str, Tensor] = {}
        """Measurements before the running critic phase, if it is reported."""

    def setup(self, stage: str) -> None:
        """Check, beyond the base's checks, that the data can be passed over in order."""
        super().setup(stage)
        if stage == "fit":
            whole_data(self.trainer)
            # The generator's gradient is a small difference of moments: TF32 has too few digits.
            torch.backends.cudnn.allow_tf32 = False

    # --- Algorithm 1 ----------------------------------------------------------------------------

    def critic_steps_due(self) -> int:
        """N_d when the number of generator steps is a multiple of N_c, else 0."""
        if self.learn_moments and self.global_step % self.critic_interval == 0:
            return self.critic_steps
        return 0

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One critic step inside a critic phase, one generator step outside."""
        real = self.images_of(batch)
        if self.critic_steps_taken < self.critic_steps_due():
            begin_report(self, real)
            self.critic_step(real)
            self.data_moments = None
            return
        if self.data_moments is None:
            self.data_moments = self.training_set_moments()
            end_report(self, real)
        self.generator_step(real)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Eq. 2, minimised: classification and the penalty on the norm of the real moments."""
        real_logits, squared_norms = logits_and_squared_norms(self.critic, real)
        mean_squared_moment = all_mean(squared_norms.mean()) / self.num_moments
        penalty = (mean_squared_moment - 1).square()
        self.log_training({"mean_squared_moment": mean_squared_moment})
        classification = logistic_critic_loss(real_logits, self.critic(fake))
        return classification + self.penalty_weight * penalty

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Eq. 1, half the squared distance of mean moments, by the chosen estimator."""
        if self.data_moments is None:
            raise RuntimeError("data_moments are not computed; see training_set_moments")
        if self.estimator == "two_batch":
            first, second = (self._moments(half) - self.data_moments for half in fake.chunk(2))
            return first.dot(second) / 2
        if self.estimator == "one_batch":
            return (self._moments(fake) - self.data_moments).square().sum() / 2
        n = world_size() * fake.shape[0]
        if n < 2:
            raise ValueError(f"estimator: 'u_statistic' needs 2 fakes or more in a batch, not {n}")
        mean, squared_norms = moment_statistics(self.critic, fake, **self.features)
        mean, squared_norm = all_mean(mean), all_mean(squared_norms.mean())
        # Mean over pairs of different fakes = mean over all pairs - what pairs with itself adds.
        own_pairs = (squared_norm - mean.dot(mean)) / (n - 1)
        return ((mean - self.data_moments).square().sum() - own_pairs) / 2

    def generator_step(self, real: Tensor) -> None:
        """Update the generator once; the two-batch estimator takes two passes of the generator."""
        fake = torch.cat([self.generate(real.shape[0]) for _ in range(self.passes)])
        self.update("generator", self.generator_loss(real, fake))
        self.critic_steps_taken = 0

    @torch.no_grad()
    def training_set_moments(self) -> Tensor:
        """Mean moments ``(k,)`` of all training images; batches leave only their sum."""
        total, count = None, 0
        for images in training_images(self):
            moments = mean_moments(self.critic, images, **self.features) * images.shape[0]
            total = moments if total is None else total.add_(moments)
            count += images.shape[0]
        if total is None:
            raise ValueError("data: the training set is empty; MoLM needs at least one image")
        # Filled in on the device: to copy a number there would be to wait for it.
        return all_sum(total) / all_sum(torch.full((), count, device=total.device))

    def _moments(self, images: Tensor) -> Tensor:
        return all_mean(mean_moments(self.critic, images, images_only=True, **self.features))

    @property
    def num_moments(self) -> int:
        """k, the number of the critic's parameters."""
        return sum(parameter.numel() for parameter in self.critic.parameters())

    @property
    def features(self) -> dict[str, Any]:
        """Weights of the features that are moments beside the gradients."""
        return {"hidden_weight": self.hidden_weight, "pixel_weight": self.pixel_weight}

    @features.setter
    def features(self, kept: dict[str, Any]) -> None:
        """Those of a checkpoint: moments of others would be others, and are made anew."""
        if kept != self.features:
            self.data_moments = None

    @property
    def passes(self) -> int:
        """Batches of fakes that a generator step takes."""
        return 2 if self.estimator == "two_batch" else 1
