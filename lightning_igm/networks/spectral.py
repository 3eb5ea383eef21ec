"""Spectral parametrization of a critic's weights, and their singular values."""

from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_igm.networks._checks import check_choice

__all__ = [
    "ScaleName",
    "SpectralName",
    "SpectralParametrization",
    "advance_spectral_norms",
    "raw_weight",
    "singular_values",
    "spectral_norm",
]

ScaleName = Literal["learnable", "fixed"]
SpectralName = Literal["none", "learnable", "fixed"]

Network = TypeVar("Network", bound=nn.Module)

_EPSILON = 1e-12


class SpectralParametrization(nn.Module):
    """Weight of a layer from its raw weight: ``scale W / sigma``, with sigma its spectral norm.

    Spectral normalization ("Spectral Normalization for Generative Adversarial Networks", Miyato,
    Kataoka, Koyama and Yoshida, 2018, https://arxiv.org/abs/1802.05957) with a scale per layer, as
    "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018,
    https://arxiv.org/abs/1805.11565) uses it to keep the condition numbers of a critic bounded.
    With W as a matrix, outputs by inputs::

        advance():   v <- n(u W),  u <- n(W v),  n(t) = t / (|t| + 1e-12)
        forward():   scale W / sigma,  sigma = u W v,  d sigma / d W_ij = u_i v_j

    sigma is the norm of the matrix, not of the convolution. The vectors are constants; sigma is
    differentiated through W, any number of times. A forward pass changes nothing, in training mode
    as in eval mode: all passes between two calls of :meth:`advance` share one sigma, and equal
    weights, u and v (which are in the state dict) give equal numbers on every rank and on resume.

    Args:
        weight: Raw weight ``(out, ...)`` of the layer.
        learnable: Whether the scale is a parameter; otherwise it is a buffer. It starts at 1.

    Example:
        >>> weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> norm = SpectralParametrization(weight, learnable=False)
        >>> for _ in range(50):
        ...     norm.advance(weight)
        >>> norm(weight)
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
    """

    scale: Tensor
    u: Tensor
    v: Tensor

    @torch.no_grad()
    def __init__(self, weight: Tensor, learnable: bool) -> None:
        super().__init__()
        scale = weight.new_ones(())
        if learnable:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        matrix = _matrix(weight)
        u = _unit(nn.init.trunc_normal_(matrix.new_empty(matrix.shape[0])))
        self.register_buffer("u", u.to(weight.dtype))
        self.register_buffer("v", _unit(u @ matrix).to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """Weight ``(out, ...)`` of the layer from its raw weight of the same shape."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = _matrix(weight)
            # Copies: a backward pass may come after the next advance.
            u, v = self.u.to(matrix, copy=True), self.v.to(matrix, copy=True)
            normalised: Tensor = self.scale / u.dot(matrix @ v) * matrix
            return normalised.view_as(weight).to(weight.dtype)

    @torch.no_grad()
    def advance(self, weight: Tensor) -> None:
        """One power iteration of u and v.

        Args:
            weight: Raw weight ``(out, ...)`` of the layer.
        """
        with torch.autocast(weight.device.type, enabled=False):
            matrix = _matrix(weight)
            v = _unit(self.u.to(matrix) @ matrix)
            self.v.copy_(v)
            self.u.copy_(_unit(matrix @ v))


def spectral_norm(
    network: Network, scale: ScaleName = "learnable", last_layer: bool = True
) -> Network:
    """Parametrize every ``Conv2d`` and ``Linear`` weight of a critic spectrally, in place.

    See :class:`SpectralParametrization`. Initialise the weights before, and let whoever trains the
    critic call :func:`advance_spectral_norms` at the start of each update, of the generator too.

    Args:
        network: The critic.
        scale: ``"learnable"`` for one more parameter per layer, ``"fixed"`` for scales of 1.
        last_layer: Whether the last layer is parametrized, too.

    Returns:
        The critic.

    Raises:
        ValueError: If there is nothing to parametrize, or a layer is parametrized already.

    Example:
        >>> from lightning_igm.networks import DCGANCritic
        >>> critic = spectral_norm(DCGANCritic(image_size=32, width=8))
        >>> advance_spectral_norms(critic)
        >>> critic(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2])
    """
    check_choice("scale", scale, ScaleName)
    layers = list(_layers(network))
    for name, layer in layers:
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"network: the weight of layer {name!r} is parametrized already")
    layers = layers if last_layer else layers[:-1]
    if not layers:
        raise ValueError(
            f"network: {type(network).__name__} has no Conv2d or Linear layer to parametrize"
        )
    for _, layer in layers:
        norm = SpectralParametrization(layer.weight, learnable=scale == "learnable")
        # Without the check, which would run the layer, networks can be made on the meta device.
        parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return network


def advance_spectral_norms(network: nn.Module) -> None:
    """Make one power iteration for every spectrally parametrized weight of a network.

    To be called once per update, before its first pass of the network: all passes of the update
    then share the same weights. Networks without a spectral parametrization are left as they are.

    Args:
        network: The critic.
    """
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for parametrization in module:
                if isinstance(parametrization, SpectralParametrization):
                    parametrization.advance(module.original)


def raw_weight(layer: nn.Module) -> Tensor:
    """Weight of a layer before its parametrization, if it has one."""
    parametrized = parametrize.is_parametrized(layer, "weight")
    return layer.get_parameter("parametrizations.weight.original" if parametrized else "weight")


@torch.no_grad()
def singular_values(network: nn.Module) -> dict[str, Tensor]:
    """Singular values of the raw weight of every ``Conv2d`` and ``Linear`` layer.

    Weights are taken as matrices ``(out, in h w)``, in float64 on the CPU.

    Args:
        network: The critic.

    Returns:
        By name of the layer: ``(min(out, in h w),)``, the largest first; NaN where a weight is not
        finite.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> layer.weight.data = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
        >>> singular_values(torch.nn.Sequential(layer))["0"].tolist()
        [3.0, 1.0]
    """
    return {name: _singular_values(raw_weight(layer)) for name, layer in _layers(network)}


def _singular_values(weight: Tensor) -> Tensor:
    matrix = _matrix(weight).double().cpu()
    if not matrix.isfinite().all():
        return matrix.new_full((min(matrix.shape),), torch.nan)
    values: Tensor = torch.linalg.svdvals(matrix)
    return values


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module


def _matrix(weight: Tensor) -> Tensor:
    """Weight ``(out, ...)`` as a matrix ``(out, in)``, in float32 or better."""
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / (torch.linalg.vector_norm(vector) + _EPSILON)
    return unit
