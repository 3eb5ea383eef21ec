"""The base of callbacks that score the generator: their cadence, history and table."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_igm.callbacks.cadence import EveryNSteps
from lightning_igm.checks import checkpoint_has_all
from lightning_igm.files import replacing
from lightning_igm.runs.folder import SCORE_FILE
from lightning_igm.runs.wandb import best_scores

__all__ = ["Evaluation"]


class Evaluation(EveryNSteps):
    """Scores every so many generator steps, and at validate and test.

    A table of all scores is printed at the end of fit, validate and test; ``history`` keeps its
    rows, and checkpoints keep ``history``. Validate and test add an entry with all that it takes to
    repeat the scores to ``scores.json`` in the run's folder. A subclass implements
    :meth:`evaluate`, :meth:`names` and :meth:`table`.

    Args:
        every_n_steps: Generator steps between two evaluations in training; None evaluates only at
            validate and test.

    Attributes:
        history: One row per evaluation: ``step`` and the scores.
        active: Whether there is anything to score.
        headline: The score in the progress bar.

    Raises:
        ValueError: ``every_n_steps`` is out of its range.
    """

    headline = ""

    def __init__(self, every_n_steps: int | None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"{type(self).__name__}: every_n_steps must be at least 1 or None, "
                f"got {every_n_steps}"
            )
        super().__init__(every_n_steps)
        self.history: list[dict[str, float]] = []
        self.active = True
        self.scored_at: int | None = None
        """Generator step of the last scores in training."""
        self._checkpoint_step: int | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the scores that are made in training, for callbacks that monitor one."""
        return list(self.names()) if self.active and self.every_n_steps is not None else []

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the scores; known after ``setup``."""

    @abstractmethod
    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> Mapping[str, float]:
        """Generate, score and return; every rank returns the same numbers."""

    @abstractmethod
    def table(self) -> str:
        """Format ``history`` as text."""

    @property
    def protocol(self) -> dict[str, Any]:
        """All that the last scores depend on beside the generator, as plain data."""
        return {}

    @property
    def latest(self) -> dict[str, float] | None:
        """The last row of ``history``; None before the first evaluation."""
        return self.history[-1] if self.history else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier run of the trainer."""
        self._checkpoint_step = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the step: validate and test do not restore it."""
        self._checkpoint_step = checkpoint["global_step"]

    def on_due_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, and tell the loggers."""
        if not self.active:
            return
        row = self._record(trainer.global_step, self.evaluate(trainer, pl_module))
        self.scored_at = trainer.global_step
        scores = {name: value for name, value in row.items() if name != "step"}
        # For checkpoints and the progress bar only: logged values reach loggers at the cadence of
        # log_every_n_steps, late, and again with every later row.
        for name, value in scores.items():
            pl_module.log(name, value, logger=False, prog_bar=name == self.headline)
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=trainer.global_step)
            logger.save()
            if trainer.is_global_zero and isinstance(logger, WandbLogger):
                # Not by W&B's own minimum: that of a continued run would begin anew.
                logger.experiment.summary.update(best_scores(self.history))
            elif isinstance(logger, TensorBoardLogger):  # It has no summary: the latest is it.
                logger.log_metrics(best_scores(self.history), step=trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, except in the sanity check."""
        if self.active and not trainer.sanity_checking:
            self._evaluate_epoch(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate."""
        if self.active:
            self._evaluate_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of the run."""
        self._print(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and write the scores, unless this validation is part of fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._print(trainer)
            self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and write the scores."""
        self._print(trainer)
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far; empty before the first evaluation."""
        return {"history": [dict(row) for row in self.history]} if self.history else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the scores of the run that wrote the checkpoint."""
        with checkpoint_has_all(f"the state of {type(self).__name__}"):
            self.history = [dict(row) for row in state_dict["history"]]

    def _evaluate_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if trainer.state.fn != TrainerFn.FITTING and self._checkpoint_step is not None:
            step = self._checkpoint_step
        row = self._record(step, self.evaluate(trainer, pl_module))
        # With "step" among them, Lightning takes it as the loggers' x-axis instead of batches.
        for name, value in row.items():
            pl_module.log(name, value, prog_bar=name == self.headline, sync_dist=name != "step")

    def _record(self, step: int, scores: Mapping[str, float]) -> dict[str, float]:
        row = {"step": float(step), **scores}
        if self.history and self.history[-1]["step"] == step:
            self.history.pop()
        self.history.append(row)
        return row

    def _print(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.active and self.history:
            print(f"\n{self.table()}")

    def _write(self, trainer: Trainer) -> None:
        if not (trainer.is_global_zero and self.active and self.history):
            return
        row = {name: value if isfinite(value) else None for name, value in self.history[-1].items()}
        entry = {
            "stage": trainer.state.fn.value if trainer.state.fn else None,
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
            **row,
            "protocol": self.protocol,
            "versions": {package.__name__: package.__version__ for package in _packages()},
        }
        path = Path(trainer.default_root_dir) / SCORE_FILE
        entries = [*_entries(path), entry]
        with replacing(path) as file:
            file.write(json.dumps(entries, indent=2) + "\n")


def _packages() -> list[Any]:
    import lightning_igm  # Only now: it imports this module.

    return [lightning_igm, torch, torchmetrics]


def _entries(path: Path) -> list[Any]:
    """Entries of the file of scores."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())
    except ValueError:
        entries = None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: no list of scores is in it; move it, then score again")
    return entries
