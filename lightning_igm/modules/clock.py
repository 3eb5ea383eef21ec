"""Generator steps as the unit of time of all that Lightning logs."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import TrainerFn

__all__ = ["GeneratorClock", "log_by_generator_steps"]


class GeneratorClock:
    """Whether a batch made a generator step, and which steps are logged.

    A batch may train the critic alone. What is logged every ``log_every_n_steps`` generator steps
    is logged once for each of them, from the step to the start of the next batch.

    Args:
        module: Whose generator steps are counted.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self.step_before: int | None = None
        """Generator step at the start of the batch that was started last."""
        self.told: int | None = None
        """Generator step that callbacks with a monitor were told of last."""

    @property
    def every(self) -> int:
        """Generator steps from one that is logged to the next; 0 if none is."""
        trainer: Any = self._module._trainer  # A loss can be had without one.
        every: int = 0 if trainer is None else trainer.log_every_n_steps
        return every

    def is_logged_step(self, ahead: int = 0) -> bool:
        """Whether this generator step, or one that is so many steps ahead, is logged."""
        return self.every > 0 and (self._module.global_step + ahead) % self.every == 0

    def logs_now(self) -> bool:
        """Whether the generator has just made a step that is logged."""
        return self._module.global_step != self.step_before and self.is_logged_step()


def log_by_generator_steps(trainer: Trainer) -> None:
    """Put all that Lightning and its callbacks log in training on generator steps.

    Lightning counts batches: ``self.log``, ``LearningRateMonitor`` and ``DeviceStatsMonitor`` would
    have an axis of their own, at another cadence. There is no public setting for it.
    """
    internals: Any = trainer
    internals.fit_loop.epoch_loop.__class__ = _EpochLoop
    internals._logger_connector.__class__ = _Connector


class _EpochLoop(_TrainingEpochLoop):
    @property
    def _batches_that_stepped(self) -> int:
        step: int = self.trainer.global_step
        return step

    @_batches_that_stepped.setter
    def _batches_that_stepped(self, value: int) -> None:
        """Lightning adds one after every batch."""


class _Connector(_LoggerConnector):
    @property
    def should_update_logs(self) -> bool:
        internals: Any = self.trainer
        if isinstance(internals._active_loop, _FitLoop):
            clock: GeneratorClock = internals.lightning_module.clock
            return clock.logs_now()
        return super().should_update_logs

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """With what the module has by itself: to pass it through ``self.log`` takes long."""
        internals: Any = self.trainer
        if internals.state.fn == TrainerFn.FITTING and not internals.barebones:
            self._callback_metrics.update(internals.lightning_module.latest)
        return super().callback_metrics
