"""Checks of trainer options that would have no effect, or fail; they name the right option."""

import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

__all__ = ["NEVER", "check_slurm", "check_trainer_options"]

NEVER = sys.maxsize
"""Epochs between Lightning's validations within a run: scores have their own cadence."""

# Typing keeps one union of the same types, in the order of whoever made it first, and of float and
# int the parser takes the first: one batch (1) would be all of them (1.0).
for _limit in ("limit_train_batches", "limit_test_batches", "limit_predict_batches"):
    inspect.unwrap(Trainer.__init__).__annotations__[_limit] = int | float | None

_SCORES = "nothing validates within fit, and metrics.every_n_steps sets when scores are made"
_CLIP = "null; model.gradient_clip limits gradients"
# Allowed values, and the advice for others.
_ALWAYS: dict[str, tuple[tuple[Any, ...], str]] = {
    "accumulate_grad_batches": (
        (1,),
        "1; losses are of whole batches, and data.batch_size sets how large they are",
    ),
    "gradient_clip_val": ((None,), _CLIP),
    "gradient_clip_algorithm": ((None,), _CLIP),
    "overfit_batches": (
        (0, 0.0),
        "0; a data module of few images overfits, as ImageArrayDataModule",
    ),
    "model_registry": ((None,), "null; checkpoints are in the run's folder"),
}
_WITHOUT_VALIDATION: dict[str, tuple[tuple[Any, ...], str]] = {
    "val_check_interval": ((None,), f"null; {_SCORES}"),
    "limit_val_batches": (
        (None, 0, 0.0, 1.0),
        f"null; {_SCORES}, metrics.num_samples of how many images",
    ),
}


def check_trainer_options(options: Mapping[str, Any], *, fits: bool) -> None:
    """Check that no option is set that would do nothing.

    Args:
        options: Of the trainer.
        fits: Whether a model is to be trained.

    Raises:
        ValueError: One is; says which option does what it seems to.
    """
    rules = dict(_ALWAYS)
    if fits and options["check_val_every_n_epoch"] == NEVER:
        rules |= _WITHOUT_VALIDATION
    for name, (allowed, reason) in rules.items():
        value = options[name]
        # By type as well: 1.0 is all batches, and 1 is one batch.
        if (type(value), value) not in [(type(each), each) for each in allowed]:
            raise ValueError(f"trainer.{name}: {value} is not allowed; it must be {reason}")


def check_slurm() -> None:
    """Check that this is all of a SLURM job's processes, or that srun started it as one of them.

    Raises:
        ValueError: It is one process in an allocation for several.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    started = {"SLURM_PROCID", "SLURM_NTASKS_PER_NODE"} <= set(os.environ)
    if tasks > 1 and not started and SLURMEnvironment.detect():
        raise ValueError(
            f"SLURM_NTASKS: {tasks} is not allowed for one process; it must be 1, by sbatch "
            "--ntasks=1 or SLURM_JOB_NAME=interactive before the command; or for N processes, "
            "sbatch --ntasks-per-node=N, srun before the command and --trainer.devices N after it"
        )
