"""Players: the networks that are trained, each by an optimizer and perhaps a schedule."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

__all__ = [
    "UNFIT_SCHEDULES",
    "Player",
    "check_loss",
    "clipped",
    "made_optimizers",
    "made_schedules",
    "optimizer_of",
    "trained_parameters",
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


class Player(NamedTuple):
    """How a network is trained; the module has it under the player's name."""

    optimizer: OptimizerCallable
    """Makes the optimizer of the network's parameters."""
    scheduler: LRSchedulerCallable | None = None
    """Makes a learning-rate schedule of the optimizer, stepped once per generator step."""


def made_optimizers(module: nn.Module, players: Mapping[str, Player]) -> list[Optimizer]:
    """Make every player's optimizer.

    Raises:
        ValueError: There is none, its arguments are out of range, or no step could be taken with
            gradients alone.
    """
    return [
        _made_optimizer(name, player.optimizer, getattr(module, name).parameters())
        for name, player in players.items()
    ]


def _made_optimizer(player: str, make: Any, parameters: Any) -> Optimizer:
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


def made_schedules(players: Mapping[str, Player], optimizers: list[Optimizer]) -> list[Any]:
    """Make the schedules of the players that have one.

    Raises:
        ValueError: Its arguments are out of range, or it does not step by itself.
    """
    return [
        _made_schedule(f"{name}_scheduler", player.scheduler, optimizer)
        for (name, player), optimizer in zip(players.items(), optimizers, strict=True)
        if player.scheduler is not None
    ]


def _made_schedule(name: str, make: Any, optimizer: Optimizer) -> Any:
    try:
        schedule = make(optimizer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            f"{name}: ReduceLROnPlateau is not allowed; {UNFIT_SCHEDULES['ReduceLROnPlateau']}"
        )
    return schedule


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


# --- an update --------------------------------------------------------------------------------


def trained_parameters(module: nn.Module, player: str) -> list[nn.Parameter]:
    """Parameters of a player's network that are not frozen."""
    network: nn.Module = getattr(module, player)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def check_loss(player: str, loss: Any) -> None:
    """Check that a loss is what can be differentiated.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(loss, Tensor):
        shown = type(loss).__name__
    elif loss.numel() != 1:
        shown = f"shape {tuple(loss.shape)}"
    elif not loss.requires_grad:
        shown = f"a number that does not depend on the {player}"
    else:
        return
    raise ValueError(
        f"{player}_loss: {shown} is not allowed; it must return a scalar tensor, differentiable in "
        f"the {player}, such as a mean over images"
    )


def clipped(gradients: list[Tensor], largest: float | None) -> list[Tensor]:
    """Gradients, each scaled to a norm if it exceeds it; None for no limit."""
    if largest is None:
        return gradients
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (largest / norms).clamp(max=1).nan_to_num(1.0)
    return list(torch._foreach_mul(gradients, list(factors.unbind())))


def optimizer_of(
    module: LightningModule, players: Mapping[str, Player], player: str, *, counted: bool
) -> Any:
    """A player's optimizer.

    Args:
        module: Has a trainer.
        players: In the order of the trainer's optimizers.
        player: Whose.
        counted: Whether Lightning is to count its steps.
    """
    optimizers: Any = module.optimizers(use_pl_optimizer=counted)
    if isinstance(optimizers, list):  # Lightning gives a single one bare.
        return optimizers[list(players).index(player)]
    return optimizers
