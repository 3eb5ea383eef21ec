"""Moments of the Method of Learned Moments: the gradient of a critic's output in its parameters.

The moments of an image are Phi(x) = grad_phi f_phi(x), one for each of the critic's k parameters
("Learning Implicit Generative Models with Method of Learned Moments", Ravuri, Mohamed, Rosca and
Vinyals, NIPS workshop 2017; with hidden activations: ICML 2018, https://arxiv.org/abs/1806.11006).
Two facts make them cheap. The mean of the moments over a batch is one ordinary backward pass of the
mean logit, and the squared norm of *each* image's moments follows from every layer's input and the
gradient at its output ("ghost norms": Goodfellow 2015, https://arxiv.org/abs/1510.01799, for linear
layers; Bu, Mao and Xu 2022, https://arxiv.org/abs/2205.10683, for convolutions), so that no image's
moments are kept: at most those of one layer exist at a time, where that is the cheaper way.
Everything here is differentiable any number of times in the images and in the parameters.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from lightning_igm.losses._support import couples_images, couples_now
from lightning_igm.losses.recorder import Recorder

__all__ = [
    "check_moment_network",
    "logits_and_squared_norms",
    "mean_moments",
    "moment_statistics",
    "squared_moment_norms",
]


def check_moment_network(critic: nn.Module) -> None:
    """Check that every image has moments of its own and that their norms can be computed.

    Raises:
        ValueError: The critic couples images (batch normalization), is random (dropout), has a
            parameter outside ``Linear`` and ``Conv2d`` layers, or a parameter that is frozen.
    """
    for name, module in critic.named_modules():
        kind = type(module).__name__
        _check_layer(name, module, couples=couples_images(module), drops=True)
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, nn.Linear | nn.Conv2d):
                raise ValueError(
                    f"critic: parameter {f'{name}.{parameter_name}'.lstrip('.')!r} belongs to a "
                    f"{kind}; moments are supported for parameters of Linear and Conv2d layers"
                )
            _check_trained(f"{name}.{parameter_name}".lstrip("."), parameter)


def _check_layer(name: str, module: nn.Module, *, couples: bool, drops: bool) -> None:
    """Check that a layer neither couples images nor, where it ``drops``, is a dropout."""
    kind = type(module).__name__
    if couples:
        raise ValueError(
            f"critic: layer {name!r} is a {kind}, which couples the images of a batch, so that "
            "an image has no moments of its own; use a critic without batch normalization"
        )
    if drops and isinstance(module, _DropoutNd) and module.p > 0:
        raise ValueError(
            f"critic: layer {name!r} is a {kind} with p={module.p}, which makes the moments "
            "random; use a critic without dropout"
        )


def _check_trained(name: str, parameter: Tensor) -> None:
    if not parameter.requires_grad:
        raise ValueError(
            f"critic: parameter {name!r} is frozen (requires_grad=False); the moments are "
            "gradients in all parameters"
        )


def mean_moments(
    critic: nn.Module,
    images: Tensor,
    *,
    hidden_weight: float = 0.0,
    pixel_weight: float = 0.0,
    images_only: bool = False,
) -> Tensor:
    """Mean of the moments over a batch, by one backward pass of the mean logit.

    Differentiable in ``images`` and in the critic's parameters; under ``torch.no_grad()`` only the
    value is computed, at the memory of an ordinary backward pass.

    Args:
        critic: Maps images ``(N, C, H, W)`` to logits ``(N,)``.
        images: ``(N, C, H, W)``.
        hidden_weight: If not 0, the mean of every hidden activation, times this weight, is appended
            (the ICML version).
        pixel_weight: If not 0, the mean image, times this weight, is appended before the hidden
            activations.
        images_only: Make the result differentiable in ``images`` only and once, as a generator's
            step needs it; the critic's parameters are constants. That is cheaper for a critic of
            (leaky) ReLUs: the gradients at its layers' outputs are then piecewise constant.

    Returns:
        ``(k,)``, in the order of ``critic.parameters()``, followed by ``C H W`` pixels and the
        hidden activations where they are asked for.

    Raises:
        ValueError: The critic couples images or is random, in the mode it is in; a parameter is
            frozen and not for ``images_only``, or there are none; its outputs are no logits; or
            there are no images.

    Example:
        >>> import torch
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 1))
        >>> mean_moments(critic, torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
        tensor([2., 2., 2., 1.])
    """
    for name, module in critic.named_modules():
        _check_layer(name, module, couples=couples_now(module), drops=module.training)
    parameters: Mapping[str, Tensor] = dict(critic.named_parameters())
    if images_only:
        parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    images, logits, recorder = _forward(critic, images, parameters)
    return _mean_moments(images, logits, recorder, hidden_weight, pixel_weight, images_only)


def moment_statistics(
    critic: nn.Module, images: Tensor, *, hidden_weight: float = 0.0, pixel_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean moments and squared norms of each image's moments, from one forward pass.

    Args:
        critic: Maps images ``(N, C, H, W)`` to logits ``(N,)``.
        images: ``(N, C, H, W)``.
        hidden_weight: As in :func:`mean_moments`.
        pixel_weight: As in :func:`mean_moments`.

    Returns:
        :func:`mean_moments` and ``(N,)``, the squared norms of all of them, pixels and hidden
        activations included.

    Raises:
        ValueError: As :func:`squared_moment_norms`.
    """
    check_moment_network(critic)
    images, logits, recorder = _forward(critic, images, dict(critic.named_parameters()))
    mean = _mean_moments(images, logits, recorder, hidden_weight, pixel_weight)
    norms = _squared_norms(images, logits, recorder)
    if pixel_weight:
        norms = norms + pixel_weight**2 * images.flatten(1).square().sum(1)
    if hidden_weight:
        for hidden in recorder.activations:
            norms = norms + hidden_weight**2 * hidden.flatten(1).square().sum(1)
    return mean, norms


def squared_moment_norms(critic: nn.Module, images: Tensor) -> Tensor:
    """Squared norm of each image's moments, ``||grad_phi f(x_i)||^2``, without forming the moments.

    Exact for ``Linear`` and ``Conv2d`` layers of any stride, padding, dilation, groups and bias.
    Differentiable like :func:`mean_moments`.

    Args:
        critic: Maps images ``(N, C, H, W)`` to logits ``(N,)``.
        images: ``(N, C, H, W)``.

    Returns:
        ``(N,)``, the sum over all k parameters (divide by k for the paper's normalisation).

    Raises:
        ValueError: The critic is not a moment network (see :func:`check_moment_network`), uses a
            layer twice, or overwrites a layer's input or output in place.

    Example:
        >>> import torch
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 1))
        >>> squared_moment_norms(critic, torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [15.0]
    """
    return logits_and_squared_norms(critic, images)[1]


def logits_and_squared_norms(critic: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(N,)`` and squared moment norms ``(N,)`` of one forward pass.

    See :func:`squared_moment_norms`.
    """
    check_moment_network(critic)
    images, logits, recorder = _forward(critic, images, dict(critic.named_parameters()))
    norms = _squared_norms(images, logits, recorder)
    return (logits if torch.is_grad_enabled() else logits.detach()), norms


def _forward(
    critic: nn.Module, images: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Recorder]:
    """One recorded forward pass; of fakes made under autocast in the critic's own precision."""
    if len(images) == 0:
        raise ValueError("images: there are none; there must be 1 or more")
    if not parameters:
        raise ValueError(f"critic: {type(critic).__name__} has no parameters, and so no moments")
    for name, parameter in parameters.items():
        _check_trained(name, parameter)
    images = images.to(next(critic.parameters()).dtype)
    with _exact(images), Recorder(parameters) as recorder:
        logits = functional_call(critic, dict(parameters), (images,))
    if logits.numel() != len(images):
        raise ValueError(
            f"critic: outputs of shape {tuple(logits.shape)} are not allowed for {len(images)} "
            "images; it must give a logit for each, (N,)"
        )
    return images, logits, recorder


def _mean_moments(
    images: Tensor,
    logits: Tensor,
    recorder: Recorder,
    hidden_weight: float,
    pixel_weight: float,
    images_only: bool = False,
) -> Tensor:
    differentiable = torch.is_grad_enabled()
    with _exact(images):
        if images_only and differentiable and recorder.piecewise_linear:
            gradients = _gradients_in_images_only(logits, recorder)
        else:
            gradients = torch.autograd.grad(
                logits.mean(),
                [parameter for _, parameter in recorder.parameters.values()],
                create_graph=differentiable,
                retain_graph=True,
                materialize_grads=True,
            )
    with _exact(images), torch.set_grad_enabled(differentiable):
        features = [gradient.flatten() for gradient in gradients]
        if pixel_weight:
            features.append(pixel_weight * images.mean(0).flatten())
        if hidden_weight:
            features += [hidden_weight * h.mean(0).flatten() for h in recorder.activations]
        return torch.cat(features)


def _gradients_in_images_only(logits: Tensor, recorder: Recorder) -> tuple[Tensor, ...]:
    """Gradients in the parameters, whose graph leads to the images through the layers' inputs.

    It need not lead through the gradients at the layers' outputs: those are piecewise constant.
    """
    calls = recorder.checked_calls(logits)
    outputs = [call.output for call in calls]
    deltas = torch.autograd.grad(logits.mean(), outputs, retain_graph=True)
    pairs = [pair for c, d in zip(calls, deltas, strict=True) for pair in c.gradients(d)]
    found = {id(parameter): gradient for parameter, gradient in pairs}
    parameters = [parameter for _, parameter in recorder.parameters.values()]
    return tuple(found.get(id(p), torch.zeros_like(p)) for p in parameters)


def _squared_norms(images: Tensor, logits: Tensor, recorder: Recorder) -> Tensor:
    differentiable = torch.is_grad_enabled()
    with _exact(images):
        calls = recorder.checked_calls(logits)
        deltas = torch.autograd.grad(
            logits.sum(), [call.output for call in calls], create_graph=differentiable
        )
    with _exact(images), torch.set_grad_enabled(differentiable):
        norms = [call.squared_norms(delta) for call, delta in zip(calls, deltas, strict=True)]
        return torch.stack(norms).sum(0)


@contextmanager
def _exact(images: Tensor) -> Iterator[None]:
    """Gradients on and autocast off: moments are small differences of nearly equal vectors."""
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        yield
