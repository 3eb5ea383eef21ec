"""Multilayer perceptrons, for points of a few dimensions and for small images."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal

from torch import nn

from lightning_igm.networks._checks import check_choice, check_positive
from lightning_igm.networks.base import OutputName, SequentialCritic, SequentialGenerator

__all__ = ["ActivationName", "MLPCritic", "MLPGenerator"]

ActivationName = Literal["relu", "tanh", "sigmoid"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class MLPGenerator(SequentialGenerator):
    """Fully connected generator of points or images.

    The generators of the comparison in "Generative Ratio Matching Networks" (Srivastava, Xu,
    Gutmann and Sutton, 2020, https://openreview.net/forum?id=SJg7spEYDS) and of "Generative Moment
    Matching Networks" (Li, Swersky and Zemel, 2015, https://arxiv.org/abs/1502.02761)::

        data              layers                                       parameters
        ----------------  -------------------------------------------  ----------
        ring, 2-D         20-100-100-2, relu                           12,402
        ring, 3-D         20-100-100-3, relu                           12,503
        Gaussian          10-50-50-2, tanh                             3,202
        MNIST, GRAM-net   100-600-600-800-784, relu, batch norm        1,533,984
        MNIST, GMMN       10-64-256-256-1024-784, relu                 1,149,904
        codes, GMMN       10-64-256-256-1024-32, relu                  379,104

    Every layer has a bias. Weights are Glorot's, from U[-a, a] with a^2 = 6 / (inputs + outputs),
    and biases 0.

    Args:
        latent_dim: Length of a latent vector.
        image_shape: ``(D,)`` of points, or ``(C, H, W)`` of images.
        hidden: Sizes of the hidden layers.
        activation: Of the hidden layers: ``"relu"``, ``"tanh"`` or ``"sigmoid"``.
        output: Of the last layer: ``"linear"``, ``"sigmoid"`` for values in [0, 1], ``"tanh"`` for
            values in [-1, 1].
        batch_norm: Whether hidden layers have batch norm before the activation.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import MLPGenerator
        >>> generator = MLPGenerator(latent_dim=20, image_shape=(2,), hidden=(100, 100))
        >>> generator(torch.randn(5, 20)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent_dim: int = 20,
        image_shape: Sequence[int] = (2,),
        hidden: Sequence[int] = (100, 100),
        activation: ActivationName = "relu",
        output: OutputName = "linear",
        batch_norm: bool = False,
    ) -> None:
        check_positive(latent_dim=latent_dim)
        shape = _shape(image_shape)
        layers = _perceptron([latent_dim, *hidden, prod(shape)], activation, batch_norm)
        if len(shape) > 1:
            layers += [nn.Unflatten(1, shape)]
        super().__init__(layers, latent_dim, shape, output)


class MLPCritic(SequentialCritic):
    """Fully connected critic of points or images, or projector of them.

    The projectors, critics and encoders of the comparison in "Generative Ratio Matching Networks"
    (Srivastava, Xu, Gutmann and Sutton, 2020, https://openreview.net/forum?id=SJg7spEYDS)::

        data         projector                            critic of a GAN
        -----------  -----------------------------------  -------------------------------------
        ring, 2-D    2-100-100-10, relu        11,410     2-100-100-1, relu           10,501
        ring, 3-D    3-100-100-10, relu        11,510     3-100-100-1, relu           10,601
        Gaussian     2-50-25-5, tanh           1,555      2-50-25-1, tanh             1,451
        MNIST                                             784-400-200-1, batch norm   395,601

    Layers and initial weights are those of :class:`MLPGenerator`.

    Args:
        image_shape: ``(D,)`` of points, or ``(C, H, W)`` of images.
        hidden: Sizes of the hidden layers.
        out_dim: Outputs for each point, the features that a kernel compares.
        activation: Of the hidden layers: ``"relu"``, ``"tanh"`` or ``"sigmoid"``.
        batch_norm: Whether hidden layers have batch norm before the activation.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> import torch
        >>> from lightning_igm.networks import MLPCritic
        >>> MLPCritic(image_shape=(2,), out_dim=10)(torch.randn(5, 2)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (2,),
        hidden: Sequence[int] = (100, 100),
        out_dim: int = 1,
        activation: ActivationName = "relu",
        batch_norm: bool = False,
    ) -> None:
        check_positive(out_dim=out_dim)
        shape = _shape(image_shape)
        layers = _perceptron([prod(shape), *hidden, out_dim], activation, batch_norm)
        if len(shape) > 1:
            layers = [nn.Flatten(), *layers]
        super().__init__(nn.Sequential(*layers), shape)


def _shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    if len(image_shape) not in (1, 3) or min(image_shape) < 1:
        raise ValueError(
            f"image_shape={tuple(image_shape)!r}: allowed are (D,) and (C, H, W), each 1 or more"
        )
    return tuple(image_shape)


def _perceptron(sizes: list[int], activation: str, batch_norm: bool) -> list[nn.Module]:
    check_choice("activation", activation, ActivationName)
    check_positive(**{f"hidden[{i}]": size for i, size in enumerate(sizes[1:-1])})
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        norm = [nn.BatchNorm1d(outputs)] if batch_norm else []
        layers += [linear, *norm, _ACTIVATIONS[activation]()]
    return layers[: -2 if batch_norm else -1]
