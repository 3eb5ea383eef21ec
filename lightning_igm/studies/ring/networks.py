"""Stacks of small networks and their optimizers: all members of an ensemble in one product."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

aten = torch.ops.aten

__all__ = ["MLP", "Adam", "Optimizer", "RMSprop"]


class MLP:
    """One multi-layer perceptron per member: ReLU between the layers, Glorot-uniform weights.

    Its derivatives are written out, which takes less time here than recording them.

    Args:
        widths: Inputs, hidden layers, outputs.
        generators: Sources of the initial weights, one per member.

    Attributes:
        flat: All parameters, ``(B, P)``: weights and biases of the first layer, and so on.
        layers: Views of them, weights ``(B, in, out)`` and biases ``(B, 1, out)``.
    """

    def __init__(self, widths: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        shapes = list(pairwise(widths))
        members = len(generators)
        self.flat = torch.zeros(members, sum((inputs + 1) * outputs for inputs, outputs in shapes))
        self.layers: list[tuple[Tensor, Tensor]] = []
        start = 0
        for inputs, outputs in shapes:
            middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
            weight = self.flat[:, start:middle].view(members, inputs, outputs)
            self.layers.append((weight, self.flat[:, middle:end].view(members, 1, outputs)))
            bound = (6 / (inputs + outputs)) ** 0.5
            for member, generator in zip(weight, generators, strict=True):
                member.uniform_(-bound, bound, generator=generator)
            start = end

    def __call__(self, points: Tensor) -> Tensor:
        """Outputs ``(B, N, out)`` for inputs ``(B, N, in)``."""
        return self.record(points)[-1]

    def record(self, points: Tensor) -> list[Tensor]:
        """Inputs, activations of the hidden layers, and outputs."""
        record = [points]
        for weight, bias in self.layers[:-1]:
            record.append(torch.bmm(record[-1], weight).add_(bias).relu_())
        weight, bias = self.layers[-1]
        return [*record, torch.bmm(record[-1], weight).add_(bias)]

    def slopes(self, record: Sequence[Tensor], at_outputs: Tensor) -> list[Tensor]:
        """Derivatives at every layer's sums, given those at the outputs, ``(B, N, out)``."""
        slopes = [at_outputs]
        for (weight, _), active in zip(self.layers[:0:-1], record[-2:0:-1], strict=True):
            slope = torch.bmm(slopes[-1], weight.mT)
            slopes.append(aten.threshold_backward.grad_input(slope, active, 0, grad_input=slope))
        return slopes[::-1]

    def gradient(self, record: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
        """Derivatives at ``flat``, given those of :meth:`slopes`."""
        parts = []
        for active, slope in zip(record, slopes, strict=False):
            parts += [torch.bmm(active.mT, slope).flatten(1), slope.sum(1)]
        return torch.cat(parts, 1)

    def at_inputs(self, slopes: Sequence[Tensor]) -> Tensor:
        """Derivatives at the inputs, ``(B, N, in)``, given those of :meth:`slopes`."""
        return torch.bmm(slopes[0], self.layers[0][0].mT)


class Optimizer(Protocol):
    """Optimizer of a stack of networks."""

    def step(self, gradient: Tensor) -> None:
        """Take the derivatives at the network's ``flat``, ``(B, P)``."""


class Adam:
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980), each member with its beta2.

    Args:
        network: What it steps.
        rate: Learning rate.
        beta1: Decay of the first moment.
        beta2: Decays of the second moment, ``(B, 1)``.
    """

    def __init__(self, network: MLP, rate: float, beta1: float, beta2: Tensor) -> None:
        self._flat, self._rate, self._beta1, self._beta2 = network.flat, rate, beta1, beta2
        self._first, self._second = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        self._steps = 0

    def step(self, gradient: Tensor) -> None:
        """Take the derivatives at the network's ``flat``, ``(B, P)``."""
        self._steps += 1
        self._first.lerp_(gradient, 1 - self._beta1)
        self._second.mul_(self._beta2).add_(gradient.square_().mul_(1 - self._beta2))
        correction = (1 - self._beta2.double() ** self._steps).sqrt().to(gradient)
        scale = self._second.sqrt().div_(correction).add_(1e-8)
        rate = self._rate / (1 - self._beta1**self._steps)
        self._flat.addcdiv_(self._first, scale, value=-rate)


class RMSprop:
    """Steps by ``rate g / (sqrt(mean g^2) + eps)``, the mean decaying by ``alpha``.

    Args:
        network: What it steps.
        rate: Learning rate.
        alpha: Decay of the mean of squares.
    """

    def __init__(self, network: MLP, rate: float, alpha: float) -> None:
        self._flat, self._rate, self._alpha = network.flat, rate, alpha
        self._squares = torch.zeros_like(self._flat)

    def step(self, gradient: Tensor) -> None:
        """Take the derivatives at the network's ``flat``, ``(B, P)``."""
        self._squares.mul_(self._alpha).addcmul_(gradient, gradient, value=1 - self._alpha)
        self._flat.addcdiv_(gradient, self._squares.sqrt().add_(1e-8), value=-self._rate)
