"""The base class of methods with a critic."""

from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_igm.checks import positive
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.players import Player
from lightning_igm.modules.set_up import check_takes_images, of_the_data
from lightning_igm.networks.spectral import advance_spectral_norms

__all__ = ["AdversarialModule"]


class AdversarialModule(ImplicitGenerativeModule):
    """A generator and a critic.

    One batch of data feeds one critic step; when :meth:`critic_steps_due` critic steps are done,
    the generator steps on the same batch. A method is a subclass with two losses; one with another
    cadence overrides :meth:`critic_steps_due`; one with another order overrides ``training_step``.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images ``(N, C, H, W)`` to logits ``(N,)``, or to features ``(N, D)`` where a
            method allows them.
        critic_optimizer: Makes the critic's optimizer from its parameters.
        critic_scheduler: Makes its schedule, stepped once per *generator* step as well.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`ImplicitGenerativeModule`.

    Raises:
        ValueError: An argument is out of range, or the generator takes another latent size.
    """

    kept: tuple[str, ...] = ("critic_steps_taken",)

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
        critic_scheduler: LRSchedulerCallable | None = None,
        critic_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.critic = critic
        self.players["critic"] = Player(critic_optimizer, critic_scheduler)
        self.critic_steps = positive("critic_steps", critic_steps, zero=True)
        self.critic_steps_taken = 0
        """Critic steps since the last generator step."""

    @abstractmethod
    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss that the critic minimises.

        Args:
            real: ``(N, C, H, W)``, a batch of the data.
            fake: ``(N, C, H, W)``, generated images, without gradient to the generator.

        Returns:
            ``()``.
        """

    def critic_steps_due(self) -> int:
        """Critic steps to take before the next generator step."""
        return self.critic_steps

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A critic step if one is due, then a generator step if no more are."""
        real = self.images_of(batch)
        if self.critic_steps_taken < self.critic_steps_due():
            self.critic_step(real)
        if self.critic_steps_taken >= self.critic_steps_due():
            self.generator_step(real)

    def critic_step(self, real: Tensor) -> None:
        """Update the critic once, on fresh generated images."""
        advance_spectral_norms(self.critic)
        with torch.no_grad():
            fake = self.generate(real.shape[0])
        self.update("critic", self.critic_loss(real, fake))
        self.critic_steps_taken += 1

    def generator_step(self, real: Tensor) -> None:
        """Update the generator once and begin a new round of critic steps."""
        advance_spectral_norms(self.critic)
        super().generator_step(real)
        self.critic_steps_taken = 0

    @property
    def critic_is_differentiated_once(self) -> bool:
        """Whether no loss has gradients of the critic in it; compiled, it could not be trained."""
        return False

    def compiled_networks(self) -> list[nn.Module]:
        """The generator; and the critic if its gradients are not differentiated again."""
        critic = [self.critic] if self.critic_is_differentiated_once else []
        return [*super().compiled_networks(), *critic]

    def setup(self, stage: str) -> None:
        """Check, beyond the base's checks, that the critic and its loss take images."""
        super().setup(stage)
        check_takes_images(self, "critic_loss")
        shape = of_the_data(self, "image_shape")
        if shape is not None:
            images = torch.zeros(2, *shape, dtype=self.weights_dtype)
            self.try_out("critic", images, "images")
