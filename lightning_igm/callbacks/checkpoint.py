"""Checkpoints that count generator steps."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_igm.checks import checkpoint_has_all, positive
from lightning_igm.distributed import world_size
from lightning_igm.modules.base import ImplicitGenerativeModule, NonFiniteLossError
from lightning_igm.modules.monitors import tell_monitors
from lightning_igm.runs.checkpoints import AtomicCheckpointIO, CheckpointNotWrittenError
from lightning_igm.runs.folder import CHECKPOINTS

__all__ = ["GeneratorCheckpoint", "is_last_step", "is_trial", "place_checkpoints"]


class GeneratorCheckpoint(ModelCheckpoint):
    """Save ``checkpoints/last.ckpt`` in the run's folder, and keep the one before it.

    Every so many generator steps, at the end, and when the run is stopped between two batches: by a
    signal, a limit of time, or an error other than a loss that is not finite. For the best by a
    score, add ``ModelCheckpoint(monitor="fid")``, which looks at every evaluation. All
    checkpoints of the run are written by
    :class:`~lightning_igm.runs.checkpoints.AtomicCheckpointIO`, unless the trainer was given
    another plugin.

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
        self.every_n_steps = every_n_steps
        self._started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, and see to it that checkpoints are whole."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to save when the run is stopped."""
        super().on_train_start(trainer, pl_module)
        self._started = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time. The last step's is saved last of all, or its grid could be lost."""
        tell_monitors(trainer, pl_module)  # Their state belongs in the checkpoint.
        cast(ImplicitGenerativeModule, pl_module).in_training_step = False
        if not is_last_step(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run, once: the base class would, too."""
        self._started = False
        if not is_trial(trainer):
            self._save_last_checkpoint(trainer, {})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save where the run was stopped, unless in the middle of an update or by a bad loss."""
        between_batches = not cast(ImplicitGenerativeModule, pl_module).in_training_step
        sound = not isinstance(exception, NonFiniteLossError | CheckpointNotWrittenError)
        # Of several ranks one alone must not begin to save: it would wait for the others.
        together = world_size() == 1 or isinstance(exception, KeyboardInterrupt | SIGTERMException)
        usual = self._started and not is_trial(trainer) and not is_last_step(trainer)
        if usual and between_batches and sound and together:
            with suppress(CheckpointNotWrittenError):  # What stopped the run is to be told.
                self._save_last_checkpoint(trainer, {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of the run in the same folder; another run's paths are not ours."""
        with checkpoint_has_all("the state of its checkpoints"):
            if Path(state_dict["dirpath"]).resolve() == Path(self.dirpath or "").resolve():
                state_dict = {**state_dict, "dirpath": self.dirpath}
                super().load_state_dict(state_dict)


def place_checkpoints(callbacks: Iterable[Callback], folder: str | Path) -> None:
    """Put checkpoints of ``ModelCheckpoint`` beside the run's own, unless they have a folder.

    Args:
        callbacks: Of the user.
        folder: Of the run.

    Raises:
        ValueError: One would write over the run's ``last.ckpt``.
    """
    usual = Path(folder) / CHECKPOINTS
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if callback.dirpath is None:
            callback.dirpath = str(usual.absolute())
        if callback.save_last and Path(callback.dirpath).absolute() == usual.absolute():
            raise ValueError(
                f"ModelCheckpoint.save_last: {callback.save_last} is not allowed in '{usual}', "
                "where --checkpoint.every_n_steps writes last.ckpt; leave it out, or set dirpath"
            )


def is_last_step(trainer: Trainer) -> bool:
    """Whether the run is over with this generator step."""
    return 0 <= trainer.max_steps <= trainer.global_step


def is_trial(trainer: Trainer) -> bool:
    """Whether nothing of the run is to be kept."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
