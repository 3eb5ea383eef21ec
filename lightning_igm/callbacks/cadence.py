"""The base of callbacks that act every so many generator steps."""

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["EveryNSteps"]


class EveryNSteps(Callback, ABC):
    """Act after each batch that reached a multiple of ``every_n_steps`` generator steps.

    Args:
        every_n_steps: Generator steps between two actions; None for none while training.
    """

    def __init__(self, every_n_steps: int | None) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self._step_before = 0

    @abstractmethod
    def on_due_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act: the generator has just stepped."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the step: batches that train only the critic do not move it."""
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Act if this batch reached a multiple of ``every_n_steps``."""
        every = self.every_n_steps
        if every is not None and trainer.global_step // every > self._step_before // every:
            self.on_due_step(trainer, pl_module)
