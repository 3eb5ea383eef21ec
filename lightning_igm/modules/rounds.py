"""Rounds of critic steps: several before each generator step, and longer ones now and then."""

from typing import Any

from torch import nn

from lightning_igm.checks import positive
from lightning_igm.modules.adversarial import AdversarialModule

__all__ = ["CriticRounds"]


class CriticRounds(AdversarialModule):
    """A critic that takes ``critic_steps`` before each generator step, or a burst of them.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images ``(N, C, H, W)`` to logits or features.
        critic_burst_steps: Critic steps instead, as long as fewer than ``critic_burst_start``
            generator steps are done, and before every ``critic_burst_interval``-th; None for never.
        critic_burst_start: See there.
        critic_burst_interval: See there.
        **kwargs: The arguments of :class:`~lightning_igm.modules.adversarial.AdversarialModule`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        critic_burst_steps: int | None = None,
        critic_burst_start: int = 20,
        critic_burst_interval: int = 500,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, **kwargs)
        self.critic_burst_steps = critic_burst_steps
        if critic_burst_steps is not None:
            positive("critic_burst_steps", critic_burst_steps)
        self.critic_burst_start = positive("critic_burst_start", critic_burst_start, zero=True)
        self.critic_burst_interval = positive("critic_burst_interval", critic_burst_interval)

    def critic_steps_due(self) -> int:
        """Critic steps to take before the next generator step."""
        step = self.global_step
        burst = step < self.critic_burst_start or step % self.critic_burst_interval == 0
        if burst and self.critic_burst_steps is not None:
            return self.critic_burst_steps
        return super().critic_steps_due()
