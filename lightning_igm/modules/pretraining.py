"""How the autoencoder of a moment-matching network is trained, before it is frozen."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.optim import Optimizer, RMSprop

from lightning_igm.checks import above_zero, positive

__all__ = ["AutoencoderTraining", "Stage"]


class Stage(NamedTuple):
    """One step of pretraining: the layers that it trains, and how."""

    levels: range
    """Numbers of the encoder's layers; their mirrors in the decoder are trained too."""
    momentum: float
    begins: bool
    """Whether it is the first step of its kind: momentum starts from nothing."""


@dataclass(frozen=True)
class AutoencoderTraining:
    """Stochastic gradient descent, layer by layer and then on all layers together.

    As for MNIST in "Generative Moment Matching Networks" (Li, Swersky and Zemel, 2015,
    https://arxiv.org/abs/1502.02761): each layer with its mirror learns to reconstruct what the
    trained layers before it make of the images, and then the whole is tuned.

    Args:
        layer_steps: Steps for each layer of the encoder.
        joint_steps: Steps for all together.
        batch_size: Images per step, over all ranks; a larger batch of data makes several steps, a
            smaller one is taken whole.
        lr: Learning rate of both, for the cross-entropy summed over pixels.
        layer_momentum: Momentum of the first.
        joint_momentum: Momentum of the second, from each of these steps on.
        max_gradient_norm: Largest norm of the whole gradient; one that exceeds it is scaled to it.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> training = AutoencoderTraining(layer_steps=10, joint_steps=5)
        >>> training.steps(depth=2)
        25
        >>> training.stage(10, depth=2)
        Stage(levels=range(1, 2), momentum=0.5, begins=True)
    """

    layer_steps: int = 3000
    joint_steps: int = 3000
    batch_size: int = 100
    lr: float = 0.1
    layer_momentum: float = 0.5
    joint_momentum: dict[int, float] = field(default_factory=lambda: {0: 0.0, 50: 0.5, 200: 0.9})
    max_gradient_norm: float = 10.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive("layer_steps", self.layer_steps, zero=True)
        positive("joint_steps", self.joint_steps, zero=True)
        positive("batch_size", self.batch_size)
        above_zero("lr", self.lr)
        above_zero("max_gradient_norm", self.max_gradient_norm)
        check_momenta("layer_momentum", {0: self.layer_momentum})
        check_momenta("joint_momentum", self.joint_momentum)

    def steps(self, depth: int) -> int:
        """All steps, for an encoder of so many layers."""
        return depth * self.layer_steps + self.joint_steps

    def stage(self, step: int, depth: int) -> Stage:
        """The layers that a step, counted from 0, trains of an encoder of so many layers."""
        if step < depth * self.layer_steps:
            level, step = divmod(step, self.layer_steps)
            return Stage(range(level, level + 1), self.layer_momentum, step == 0)
        step -= depth * self.layer_steps
        return Stage(range(depth), momentum_at(self.joint_momentum, step), step == 0)


def momentum_at(momenta: dict[int, float], step: int) -> float:
    """The latest of momenta by first step; 0 before the first."""
    return momenta[max(begun)] if (begun := [first for first in momenta if first <= step]) else 0.0


def check_momenta(name: str, momenta: dict[int, float]) -> dict[int, float]:
    """Check momenta by first step.

    Raises:
        ValueError: A step is negative, or a momentum is not in [0, 1).
    """
    for step, value in momenta.items():
        if step < 0 or not 0 <= value < 1:
            raise ValueError(
                f"{name}: {value} from step {step} on is not allowed; steps must be 0 or more and "
                "momenta in [0, 1)"
            )
    return momenta


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Set the momentum of an optimizer, if it has one."""
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = momentum
    if momentum and isinstance(optimizer, RMSprop):
        # It makes its buffers in its first step, and only if it has a momentum then.
        for parameter, state in optimizer.state.items():
            state.setdefault("momentum_buffer", torch.zeros_like(parameter))
