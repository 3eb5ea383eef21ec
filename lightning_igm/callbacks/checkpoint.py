"""Checkpoints that count generator steps, and what makes a continued run the same run."""

import random
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_igm.checks import positive
from lightning_igm.modules.base import ImplicitGenerativeModule, NonFiniteLossError
from lightning_igm.run import CHECKPOINTS, MetricsCSV, check_no_run

__all__ = ["ExactResume", "GeneratorCheckpoint"]


class GeneratorCheckpoint(ModelCheckpoint):
    """Save ``checkpoints/last.ckpt`` in the run's folder.

    Every so many generator steps, at the end, and when the run is stopped between two batches: by a
    signal, a limit of time, or an error other than a loss that is not finite. For the best by a
    score, add ``ModelCheckpoint(monitor="fid", every_n_train_steps=...)``.

    Args:
        every_n_steps: Generator steps between two checkpoints.
        dirpath: Folder of the checkpoints; ``checkpoints`` in the run's folder by default.

    Raises:
        ValueError: ``every_n_steps`` is not positive.
    """

    def __init__(self, every_n_steps: int = 1000, dirpath: str | None = None) -> None:
        super().__init__(
            dirpath=dirpath,
            save_last=True,
            save_top_k=0,
            every_n_train_steps=positive("GeneratorCheckpoint.every_n_steps", every_n_steps),
            enable_version_counter=False,
        )
        self._started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the checkpoint that the run continues from as saved.

        Otherwise the next batch, if it is a critic step, would overwrite it.
        """
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step
        self._started = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run."""
        super().on_train_end(trainer, pl_module)
        self._started = False
        if not _is_trial(trainer) and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, {})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save where the run was stopped, unless in the middle of an update or by a bad loss."""
        between_batches = not cast(ImplicitGenerativeModule, pl_module).in_training_step
        sound = not isinstance(exception, NonFiniteLossError)
        if self._started and between_batches and sound and not _is_trial(trainer):
            self._save_last_checkpoint(trainer, {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of the run in the same folder; another run's paths are not ours."""
        if Path(state_dict["dirpath"]).resolve() == Path(self.dirpath or "").resolve():
            state_dict = {**state_dict, "dirpath": self.dirpath}
            super().load_state_dict(state_dict)


class ExactResume(Callback):
    """Make a continued run the same run; it must be the first callback.

    Keeps the random states, the position in the data and the length of ``metrics.csv``, and lets
    Ctrl-C stop the run before the next batch, so that nothing is lost (a second Ctrl-C stops at
    once). A folder that holds another run is refused.

    Args:
        continues: Whether the run goes on in a folder that holds a run.
    """

    def __init__(self, continues: bool = False) -> None:
        self.continues = continues
        self._random_states: dict[str, Any] | None = None
        self._rows = 0
        self._interrupted = False
        self._handler: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to write over another run.

        Raises:
            ValueError: The folder holds a run that this one does not continue.
        """
        folder = Path(trainer.default_root_dir)
        if stage == "fit" and not self.continues and trainer.is_global_zero:
            check_no_run(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the random states back, and drop logged rows that will be made anew."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.go_back_to(self._rows)
        self.continues = True  # The folder is this run's own from now on.
        if self._random_states is not None:
            _set_random_states(self._random_states)
            self._random_states = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop here after Ctrl-C: all that belongs to the last batch is done."""
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch as trained on."""
        cast(ImplicitGenerativeModule, pl_module).in_training_step = False
        data = getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "batches_trained"):
            data.batches_trained += 1

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, self._handler)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep how many rows ``metrics.csv`` has, and the random states."""
        rows = [logger.rows for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
        checkpoint["exact_resume"] = {"rows": max(rows, default=0), "random": _random_states()}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep them until training starts."""
        if "exact_resume" in checkpoint:
            self._rows = checkpoint["exact_resume"]["rows"]
            self._random_states = checkpoint["exact_resume"]["random"]


def _is_trial(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _random_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - users' state
    name, keys, *rest = numpy_state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
