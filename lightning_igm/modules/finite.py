"""Watching for losses that are not finite, without waiting for the device at every step."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_igm.distributed import all_mean

__all__ = ["FiniteLosses", "NonFiniteLossError"]

# Batches; each check waits for the device.
_CHECK_EVERY = 50
_NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the run stops."""


class FiniteLosses(Callback):
    """Stop a run whose losses, or their gradients, are not finite.

    They are looked at every so many batches, before every save, and at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[str, Tensor] = {}
        self._unchecked = 0

    def watch(self, player: str, loss: Tensor, gradients: list[Tensor], step: int) -> None:
        """Remember the first step that was not finite, without waiting for the device.

        Args:
            player: Whose update it is.
            loss: ``()``, this rank's.
            gradients: Those of the global batch: all ranks see the same, and stop together.
            step: Of the generator.
        """
        first = self._first.get(player)
        if first is None:
            first = torch.full((), _NEVER, device=loss.device)
        norms = torch.stack(torch._foreach_norm(gradients)).sum()
        finite = (all_mean(loss.detach()) + norms).isfinite()
        self._first[player] = torch.minimum(first, torch.where(finite, _NEVER, step))

    def check_finite(self, trainer: Trainer) -> None:
        """Wait for the device and check every loss so far.

        Raises:
            NonFiniteLossError: One was NaN or infinite.
        """
        self._unchecked = 0
        steps = {player: int(first) for player, first in self._first.items()}
        if not steps or min(steps.values()) == _NEVER:
            return
        player = min(steps, key=lambda name: steps[name])
        saved = [getattr(c, "last_model_path", "") for c in trainer.checkpoint_callbacks]
        good = next((path for path in saved if Path(path).is_file()), "none was saved")
        raise NonFiniteLossError(
            f"{player}_loss is not finite at generator step {steps[player]}; it or its gradient is "
            f"NaN or infinite, and the run stops; last good checkpoint: {good}"
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check now and then."""
        if self._unchecked == _CHECK_EVERY:
            self.check_finite(trainer)
        self._unchecked += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses since the last save."""
        self.check_finite(trainer)
