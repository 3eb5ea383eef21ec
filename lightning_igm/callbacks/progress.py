"""A progress bar that counts generator steps."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

__all__ = ["GeneratorProgressBar"]


class GeneratorProgressBar(TQDMProgressBar):
    """One bar for the whole run, in generator steps, if ``max_steps`` is set; else one per epoch.

    Args:
        refresh_rate: Batches between two refreshes.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Start the run's bar."""
        if trainer.max_steps < 0:
            super().on_train_epoch_start(trainer, *args)
        elif self.train_progress_bar.total != trainer.max_steps:
            self.train_progress_bar.reset(trainer.max_steps)
            self.train_progress_bar.initial = trainer.global_step
            self.train_progress_bar.n = trainer.global_step
            self.train_progress_bar.set_description("Generator steps")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar to the generator step."""
        if trainer.max_steps < 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif self.refresh_rate and (
            batch_idx % self.refresh_rate == 0 or trainer.global_step == trainer.max_steps
        ):
            self.train_progress_bar.n = trainer.global_step
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The scores, and the latest losses; the device is waited for."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        logged = trainer.callback_metrics
        latest = getattr(pl_module, "latest", {})
        return metrics | {name: value.item() for name, value in latest.items() if name in logged}
