"""Last message of a run: its folder, and the command that resumes it."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_igm.callbacks import GeneratorCheckpoint
from lightning_igm.runs.checkpoints import LAST
from lightning_igm.runs.folder import SaveRunConfig

__all__ = ["say", "telling_the_end"]


@rank_zero_only
def say(line: str) -> None:
    """Tell something on standard error; one process does."""
    print(f"igm: {line}", file=sys.stderr)


@contextmanager
def telling_the_end(trainer: Trainer, *, weights_only: bool = True) -> Iterator[None]:
    """Tell the folder of a run that ends in the body, and if it was stopped, how to resume it.

    An error keeps the command that resumes the run as a note.
    """
    try:
        yield
    except (SystemExit, SIGTERMException):
        _tell(trainer, weights_only)
        raise
    except Exception as error:
        if line := _line_to_resume(trainer, weights_only):
            error.add_note(f"resume with: {line}")
        raise
    _tell(trainer, weights_only)


def _tell(trainer: Trainer, weights_only: bool) -> None:
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    where = f"at generator step {trainer.global_step}"
    line = _line_to_resume(trainer, weights_only)
    if _is_finished(trainer):
        say(f"the run in {trainer.default_root_dir} is finished, {where}")
    else:
        more = f"; resume with: {line}" if line else ""
        say(f"the run in {trainer.default_root_dir} was stopped {where}{more}")


def _is_finished(trainer: Trainer) -> bool:
    # The epoch that a limit of time ended counts as one, too.
    whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    epochs = trainer.max_epochs
    return 0 <= trainer.max_steps <= trainer.global_step or (
        whole and epochs is not None and 0 <= epochs <= trainer.current_epoch
    )


def _line_to_resume(trainer: Trainer, weights_only: bool) -> str:
    """The command line that resumes a run; none before its first checkpoint."""
    configs = [c.path for c in trainer.callbacks if isinstance(c, SaveRunConfig)]  # type: ignore[attr-defined]
    kept = [c for c in trainer.callbacks if isinstance(c, GeneratorCheckpoint)]  # type: ignore[attr-defined]
    if not any(c.dirpath and (Path(c.dirpath) / LAST).is_file() for c in kept):
        return ""
    words = ["igm", "fit", "--config", *map(str, filter(None, configs))]
    words += ["--run.dir", str(trainer.default_root_dir), "--ckpt_path", "last"]
    words += [] if weights_only else ["--weights_only", "false"]
    return shlex.join(words) if any(configs) else ""
