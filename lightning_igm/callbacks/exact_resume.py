"""A resumed run is the same run: order of the data, random states, rows of the table."""

import random
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_igm.callbacks.checkpoint import is_last_step
from lightning_igm.checks import checkpoint_has_all
from lightning_igm.distributed import rank, world_size
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.runs.folder import MetricsCSV, check_no_run

__all__ = ["ExactResume"]


class ExactResume(Callback):
    """Make a continued run the same run; it must be the first callback.

    Keeps the random states of all ranks, the position in the data and the length of
    ``metrics.csv``. Ctrl-C and SIGTERM, on SLURM SIGUSR1 too, stop the run after a batch, so that
    nothing is lost (a second one stops at once). Of several ranks, one that gets a signal tells
    the others in the background, and all stop after the batch that follows: no batch waits for it,
    nor for a device. A folder that holds another run is refused.

    Args:
        continues: Whether the run goes on in a folder that holds a run.
    """

    def __init__(self, continues: bool = False) -> None:
        self.continues = continues
        self._random_states: list[dict[str, Any]] = []
        self._rows = 0
        self._signal = 0
        self._signals: _Signals | None = None

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
        if rank() < len(self._random_states):
            _set_random_states(self._random_states[rank()])
        self._random_states = []
        self._signal = 0
        cast(ImplicitGenerativeModule, pl_module).stop_by = None
        if threading.current_thread() is threading.main_thread():
            # On SLURM Lightning would save in the middle of whatever the signal meets.
            slurm = (signal.SIGUSR1,) if SLURMEnvironment.detect() else ()
            for number in (signal.SIGINT, signal.SIGTERM, *slurm):
                signal.signal(number, self._remember)  # The trainer puts the old ones back.
        if world_size() > 1:
            self._signals = _Signals()
            # Lightning would have every batch wait for the device, to hear of signals.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch as trained on; once all ranks know of a signal it is the last of all."""
        data = getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "batches_trained"):
            data.batches_trained += 1
        received = self._signal
        if self._signals is not None:
            received = self._signals.exchange(received)
        if received and not is_last_step(trainer):
            stop = KeyboardInterrupt if received == signal.SIGINT else SIGTERMException
            cast(ImplicitGenerativeModule, pl_module).stop_by = stop

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave nothing in the background."""
        if self._signals is not None:
            self._signals.close()
            self._signals = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave nothing in the background; what stopped the run is to be told."""
        with suppress(RuntimeError):
            self.on_train_end(trainer, pl_module)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum
        usual = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(signum, usual)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep how many rows ``metrics.csv`` has, and the random states of all ranks."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
        for logger in loggers:
            logger.sync()
        states = [_random_states()]
        if world_size() > 1:
            states = [{} for _ in range(world_size())]
            dist.all_gather_object(states, _random_states())
        rows = max((logger.rows for logger in loggers), default=self._rows)
        checkpoint["exact_resume"] = {"rows": rows, "random": states}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep them until training starts, and find the best checkpoints of a moved run."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state:
                _move(state, Path(callback.dirpath or ""))
        if "exact_resume" in checkpoint:
            with checkpoint_has_all("exact_resume"):
                self._rows = checkpoint["exact_resume"]["rows"]
                self._random_states = checkpoint["exact_resume"]["random"]


def _move(state: dict[str, Any], folder: Path) -> None:
    """Let the state of a ``ModelCheckpoint`` name files of its folder that were in another one."""
    if not (state["best_model_path"] and (folder / Path(state["best_model_path"]).name).is_file()):
        return
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = str(folder / Path(state[name]).name) if state[name] else ""
    best = state["best_k_models"].items()
    state["best_k_models"] = {str(folder / Path(path).name): score for path, score in best}
    state["dirpath"] = str(folder)


class _Signals:
    """Exchange of the ranks' signals from batch to batch, on the CPU and in the background."""

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo")
        self._largest = torch.tensor(0)
        self._work: dist.Work | None = None

    def exchange(self, own: int) -> int:
        """Tell the others; the largest that the ranks told the last time, the same on all.

        Raises:
            RuntimeError: A rank has died.
        """
        self._wait()
        known = int(self._largest)
        self._largest = torch.tensor(own)
        self._work = dist.all_reduce(
            self._largest, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return known

    def close(self) -> None:
        """Wait for what was told last.

        Raises:
            RuntimeError: A rank has died.
        """
        try:
            self._wait()
        finally:
            dist.destroy_process_group(self._group)

    def _wait(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._work = None


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
