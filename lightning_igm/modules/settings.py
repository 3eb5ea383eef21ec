"""What a continued run is configured with wins over what its checkpoint was."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from lightning_igm.modules.support import is_plain

__all__ = [
    "UNFIT_SCHEDULES",
    "apply_changes",
    "check_classes",
    "made_optimizer",
    "made_schedule",
    "settings_of",
    "warn_of_rising_rates",
]

UNFIT_SCHEDULES = {
    "ReduceLROnPlateau": (
        "it must step without a score; --trainer.callbacks+=KIDLearningRate lowers rates by one"
    ),
    "SequentialLR": "it must be made of plain values; a class of your own can join several",
    "ChainedScheduler": "it must be made of plain values; a class of your own can join several",
}
"""Schedules of torch's that cannot be had, and why."""

# How far an optimizer or schedule is, not how it is configured.
_PROGRESS = ("params", "initial_lr", "last_epoch", "base_lrs")


def made_optimizer(player: str, make: Any, parameters: Any) -> Optimizer:
    """Make a player's optimizer.

    Raises:
        ValueError: There is none, its arguments are out of range, or no step could be taken with
            gradients alone.
    """
    if not callable(make):
        raise ValueError(f"{player}_optimizer: {make} is not allowed; it must be an optimizer")
    try:
        optimizer: Optimizer = make(parameters)
    except ValueError as error:
        raise ValueError(f"{player}_optimizer: {error}") from error
    if isinstance(optimizer, LBFGS | SparseAdam):
        raise ValueError(
            f"{player}_optimizer: {type(optimizer).__name__} is not allowed; it must step by dense "
            "gradients alone, without a closure"
        )
    return optimizer


def made_schedule(player: str, make: Any, optimizer: Optimizer) -> Any:
    """Make a player's learning-rate schedule.

    Raises:
        ValueError: Its arguments are out of range, or it does not step by itself.
    """
    name = f"{player}_scheduler"
    try:
        schedule = make(optimizer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            f"{name}: ReduceLROnPlateau is not allowed; {UNFIT_SCHEDULES['ReduceLROnPlateau']}"
        )
    return schedule


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


def warn_of_rising_rates(schedules: list[Any], max_steps: int) -> None:
    """Tell of cosine schedules that end before the run does: their rates rise again.

    Args:
        schedules: Stepped once per generator step.
        max_steps: Generator steps of the run; -1 for no end.
    """
    for schedule in schedules:
        if isinstance(schedule, CosineAnnealingLR) and not 0 <= max_steps <= schedule.T_max:
            end = f"at {max_steps}" if max_steps >= 0 else "never"
            rank_zero_warn(
                f"CosineAnnealingLR.T_max: the schedule ends at step {schedule.T_max} and the run "
                f"{end}; after the schedule's end the learning rate rises again"
            )
