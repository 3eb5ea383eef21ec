"""The base class of methods whose two players share one discrepancy."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from lightning_igm.modules.rounds import CriticRounds

__all__ = ["DiscrepancyGAN"]


class DiscrepancyGAN(CriticRounds):
    """A generator that descends a discrepancy between real and fake, and a critic that ascends it.

    The optimised discrepancy of "Demystifying MMD GANs" (Bińkowski, Sutherland, Arbel and Gretton,
    ICLR 2018, https://arxiv.org/abs/1801.01401), sup over critics of D(P, Q). Every update, the
    generator's too, sees a batch of its own. Arguments are those of
    :class:`~lightning_igm.modules.rounds.CriticRounds`.
    """

    logged: tuple[str, ...] = ("discrepancy",)

    @abstractmethod
    def discrepancy(self, real: Tensor, fake: Tensor) -> Tensor:
        """D(P, Q), estimated.

        Args:
            real: ``(N, C, H, W)``.
            fake: ``(N, C, H, W)``.

        Returns:
            ``()``, differentiable in the critic and in ``fake``.
        """

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the discrepancy."""
        discrepancy = self.discrepancy(real, fake)
        self.log_training({"discrepancy": discrepancy})
        return -discrepancy

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discrepancy."""
        return self.discrepancy(real, fake)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One update per batch: a critic step as long as one is due, then a generator step."""
        real = self.images_of(batch)
        if self.critic_steps_taken < self.critic_steps_due():
            self.critic_step(real)
        else:
            self.generator_step(real)
