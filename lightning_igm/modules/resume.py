"""On resume, the current configuration overrides the checkpoint's."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from lightning_igm.checks import checkpoint_has_all
from lightning_igm.modules.hyperparameters import is_plain
from lightning_igm.modules.memory_format import lay_out_state
from lightning_igm.modules.monitors import count_as_saved
from lightning_igm.modules.players import warn_of_rising_rates

__all__ = ["ContinuedSettings", "apply_changes", "check_classes", "settings_of", "settle_epochs"]

# How far an optimizer or schedule is, not how it is configured.
_PROGRESS = ("params", "initial_lr", "last_epoch", "base_lrs")


class ContinuedSettings(Callback):
    """Keep the settings of optimizers and schedules; on resume, the current ones win."""

    def __init__(self) -> None:
        super().__init__()
        self.now: list[dict[str, Any]] = []
        """Settings of this run: the module fills it in as it makes optimizers and schedules."""
        self._then: list[dict[str, Any]] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the settings."""
        checkpoint.setdefault("training_state", {})["settings"] = self.now

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the settings that the checkpoint's run began with.

        Raises:
            ValueError: The checkpoint has none.
        """
        if trainer.state.fn == TrainerFn.FITTING and "training_state" in checkpoint:
            with checkpoint_has_all("its training state"):
                self._then = checkpoint["training_state"]["settings"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizers and schedules, which are made and not yet restored.

        Raises:
            ValueError: They are not of the classes that they were of.
        """
        if self._then is not None:
            check_classes(self._then, self.now)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply what differs to what was restored."""
        for optimizer in trainer.optimizers:
            lay_out_state(optimizer)
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        restored = [*trainer.optimizers, *schedules]
        apply_changes(restored, self._then or [], self.now)
        warn_of_rising_rates(schedules, trainer.max_steps)
        count_as_saved(trainer)
        self._then = None


def settings_of(configured: Any) -> dict[str, Any]:
    """Class and plain settings of a fresh optimizer (lr, betas ...) or schedule (T_max ...)."""
    is_optimizer = isinstance(configured, Optimizer)
    values = configured.param_groups[0] if is_optimizer else configured.state_dict()
    names = [name for name in values if not name.startswith("_") and name not in _PROGRESS]
    plain = {name: values[name] for name in names if is_plain(values[name])}
    return {"class": type(configured).__name__} | plain


def check_classes(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    """Check that optimizers and schedules are of the classes that they were of.

    Args:
        then: Their settings in the checkpoint.
        now: Their settings as configured for this run.

    Raises:
        ValueError: One is of another class, or there are more or fewer.
    """
    before, after = (", ".join(each["class"] for each in every) for every in (then, now))
    if before != after:
        raise ValueError(
            f"ckpt_path: optimizers and schedules were {before} in the checkpoint and are {after} "
            "now; a run that goes on can change their settings only"
        )


def apply_changes(
    restored: list[Any], then: list[dict[str, Any]], now: list[dict[str, Any]]
) -> None:
    """Set on restored optimizers and schedules what is configured otherwise than it was.

    Args:
        restored: Optimizers and schedules after a checkpoint was loaded into them.
        then: Their settings when the checkpoint's run began.
        now: Their settings as configured for this run.
    """
    factors: dict[int, float] = {}
    for target, before, after in zip(restored, then, now, strict=False):
        for key, value in after.items():
            if key not in before or before[key] == value:
                continue
            rank_zero_info(
                f"{type(target).__name__}.{key}: {before[key]} in the checkpoint, {value} now"
            )
            if not isinstance(target, Optimizer):
                setattr(target, key, value)
            elif key == "lr":
                # A schedule has moved the rate: it moves on from the same share of the new one.
                factors[id(target)] = value / before[key]
                for group in target.param_groups:
                    group["lr"] *= factors[id(target)]
                    if "initial_lr" in group:
                        group["initial_lr"] *= factors[id(target)]
            else:
                for group in target.param_groups:
                    group[key] = value
    for schedule in restored:
        factor = factors.get(id(getattr(schedule, "optimizer", None)))
        if factor is not None:
            schedule.base_lrs = [rate * factor for rate in schedule.base_lrs]


def settle_epochs(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Count epochs of a checkpoint as they were trained.

    One that is saved when a run stops counts an epoch as complete that was stopped in its middle,
    and one that is saved at an epoch's end is continued with an empty one.

    Args:
        checkpoint: Lightning's; changed in place, and returned.
    """
    loop = checkpoint["loops"].get("fit_loop")
    if not loop:
        return checkpoint
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if epochs["current"]["processed"] < epochs["current"]["ready"]:
        return checkpoint  # Saved after a batch: Lightning goes on behind it.
    for count in (epochs["total"], epochs["current"]):
        count["processed"] -= 0 if batches["is_last_batch"] else 1
        count["completed"] = count["processed"]
    if batches["is_last_batch"]:
        batches |= {"current": dict.fromkeys(batches["current"], 0), "is_last_batch": False}
    return checkpoint
