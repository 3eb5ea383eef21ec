"""Moments of the Method of Learned Moments: the gradient of a critic's output in its parameters.

The moments of an image are Phi(x) = grad_phi f_phi(x), one for each of the critic's k parameters
("Learning Implicit Generative Models with Method of Learned Moments", Ravuri, Mohamed, Rosca and
Vinyals, NIPS workshop 2017; with hidden activations: ICML 2018, https://arxiv.org/abs/1806.11006).
Two facts make them cheap. The mean of the moments over a batch is one ordinary backward pass of the
mean logit, and the squared norm of *each* image's moments follows from every layer's input and the
gradient at its output ("ghost norms": Goodfellow 2015, https://arxiv.org/abs/1510.01799, for linear
layers; Bu, Mao and Xu 2022, https://arxiv.org/abs/2205.10683, for convolutions), so that no image's
gradient is ever formed. Everything here is differentiable any number of times in the images and in
the parameters.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

__all__ = [
    "check_moment_network",
    "logits_and_squared_norms",
    "mean_moments",
    "moment_statistics",
    "squared_moment_norms",
]

_ACTIVATIONS = frozenset(
    {
        F.leaky_relu,
        F.relu,
        torch.relu,
        F.elu,
        F.gelu,
        F.silu,
        F.softplus,
        F.celu,
        F.selu,
        F.mish,
        F.relu6,
        F.hardtanh,
    }
    | {torch.tanh, Tensor.tanh, torch.sigmoid, Tensor.sigmoid, Tensor.relu, torch.selu, torch.celu}
)


def check_moment_network(critic: nn.Module) -> None:
    """Check that every image has moments of its own and that their norms can be computed.

    Raises:
        ValueError: The critic couples images (batch normalization), is random (dropout), has a
            parameter outside ``Linear`` and ``Conv2d`` layers, or a parameter that is frozen.
    """
    for name, module in critic.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm):
            raise ValueError(
                f"critic: layer {name!r} is a {kind}, which couples the images of a batch, so that "
                "an image has no moments of its own; use a critic without batch normalization"
            )
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise ValueError(
                f"critic: layer {name!r} is a {kind} with p={module.p}, which makes the moments "
                "random; use a critic without dropout"
            )
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, nn.Linear | nn.Conv2d):
                raise ValueError(
                    f"critic: parameter {f'{name}.{parameter_name}'.lstrip('.')!r} belongs to a "
                    f"{kind}; moments are supported for parameters of Linear and Conv2d layers"
                )
            if not parameter.requires_grad:
                raise ValueError(
                    f"critic: parameter {f'{name}.{parameter_name}'.lstrip('.')!r} is frozen "
                    "(requires_grad=False); the moments are gradients in all parameters"
                )


def mean_moments(
    critic: nn.Module, images: Tensor, *, hidden_weight: float = 0.0, pixel_weight: float = 0.0
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

    Returns:
        ``(k,)``, in the order of ``critic.parameters()``, followed by ``C H W`` pixels and the
        hidden activations where they are asked for.

    Example:
        >>> import torch
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 1))
        >>> mean_moments(critic, torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
        tensor([2., 2., 2., 1.])
    """
    images, logits, recorder = _forward(critic, images)
    return _mean_moments(critic, images, logits, recorder, hidden_weight, pixel_weight)


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
    images, logits, recorder = _forward(critic, images)
    mean = _mean_moments(critic, images, logits, recorder, hidden_weight, pixel_weight)
    norms = _squared_norms(critic, images, logits, recorder)
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
    images, logits, recorder = _forward(critic, images)
    norms = _squared_norms(critic, images, logits, recorder)
    return (logits if torch.is_grad_enabled() else logits.detach()), norms


def _forward(critic: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, "_Recorder"]:
    """One recorded forward pass; of fakes made under autocast in the critic's own precision."""
    with _exact(images), _Recorder(critic) as recorder:
        images = images.to(next(critic.parameters()).dtype)
        return images, critic(images), recorder


def _mean_moments(
    critic: nn.Module,
    images: Tensor,
    logits: Tensor,
    recorder: "_Recorder",
    hidden_weight: float,
    pixel_weight: float,
) -> Tensor:
    differentiable = torch.is_grad_enabled()
    with _exact(images):
        gradients = torch.autograd.grad(
            logits.mean(),
            list(critic.parameters()),
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


def _squared_norms(
    critic: nn.Module, images: Tensor, logits: Tensor, recorder: "_Recorder"
) -> Tensor:
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


class _Call(NamedTuple):
    """One call of a linear or convolutional layer."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: list[int]
    """Zeros left, right, above and below."""
    groups: int
    versions: tuple[int, int]

    def squared_norms(self, delta: Tensor) -> Tensor:
        """Squared norm ``(N,)`` of the layer's part of the moments; delta: its output's gradient.

        The cheaper of two ways, counted in multiplications for each image: with T positions, d
        outputs and patches of p numbers, forming the image's gradient takes T p d; the Gram
        matrices of M pixels of c channels take about M^2 c / stride^2 + T^2 d.
        """
        n, image, weight = self.input.shape[0], self.input, self.weight
        if weight.dim() == 2:  # A linear layer is a 1x1 convolution over all of its positions.
            weight = weight[:, :, None, None]
            image, delta = (t.reshape(n, -1, t.shape[-1]).mT.unsqueeze(3) for t in (image, delta))
        if any(self.padding):
            image = F.pad(image, self.padding)
        # The groups of a convolution are as independent as images are.
        image, delta = (t.reshape(n * self.groups, -1, *t.shape[2:]) for t in (image, delta))
        outputs, positions = delta.shape[1], delta[0, 0].numel()
        pixels = image[0, 0].numel() ** 2 // (self.stride[0] * self.stride[1])
        by_gram = pixels * image.shape[1] + positions**2 * outputs
        by_gradient = positions * weight[0].numel() * outputs
        way = _norms_by_gram if by_gram < by_gradient else _norms_by_gradient
        kernel = (weight.shape[2], weight.shape[3])
        norms = way(image, delta, kernel, self.stride, self.dilation)
        if self.bias is not None:
            norms = norms + delta.sum((2, 3)).square().sum(1)
        return norms.view(n, self.groups).sum(1)


def _norms_by_gradient(
    image: Tensor,
    delta: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Squared norm ``(N,)`` of each image's gradient in a convolution's weight.

    The images stand side by side as the groups of one convolution, each with a weight of its own.
    """
    n, channels = image.shape[:2]
    image, delta = (t.reshape(1, -1, *t.shape[2:]) for t in (image, delta))
    shape = (delta.shape[1], channels, *kernel)
    gradients: Tensor = conv2d_weight(image, shape, delta, stride, 0, dilation, groups=n)
    return gradients.view(n, -1).square().sum(1)


def _norms_by_gram(
    image: Tensor,
    delta: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The same without forming the gradient.

    The gradient is a sum over positions of products of a delta and a patch, so that its squared
    norm is a sum over pairs of positions of <delta, delta'> <patch, patch'>. The inner product of
    two patches is that of their pixels, summed over the kernel's offsets, and at a stride only
    pixels with the same remainder meet.
    """
    height, width = delta.shape[2:]
    patches = []
    for top, downs in _offsets(kernel[0], stride[0], dilation[0]).items():
        for left, rights in _offsets(kernel[1], stride[1], dilation[1]).items():
            gram = _gram(image[:, :, top :: stride[0], left :: stride[1]])
            gram = _sum([gram[:, i : i + height, :, i : i + height] for i in downs])
            gram = _sum([gram[:, :, j : j + width, :, j : j + width] for j in rights])
            patches.append(gram)
    return (_sum(patches) * _gram(delta)).sum((1, 2, 3, 4))


def _offsets(size: int, stride: int, dilation: int) -> dict[int, list[int]]:
    """A kernel's offsets by their remainder on division by the stride: their quotients."""
    offsets: dict[int, list[int]] = {}
    for offset in range(0, size * dilation, dilation):
        offsets.setdefault(offset % stride, []).append(offset // stride)
    return offsets


def _gram(image: Tensor) -> Tensor:
    """Inner products ``(N, H, W, H, W)`` of all pairs of pixels of images ``(N, C, H, W)``."""
    pixels = image.flatten(2)
    return (pixels.mT @ pixels).view(-1, *image.shape[2:], *image.shape[2:])


def _sum(tensors: list[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)


class _Recorder(TorchFunctionMode):
    """Keeps what every layer of a critic sees and says during one forward pass."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.parameters = {id(p): (name, p) for name, p in critic.named_parameters()}
        self.calls: list[_Call] = []
        self.activations: list[Tensor] = []
        self.outside: list[tuple[str, Tensor]] = []
        """Results of functions of a parameter that are not its layer's, and its name."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.linear:
            self._record_linear(result, *args, **kwargs)
        elif func is F.conv2d:
            self._record_convolution(result, *args, **kwargs)
        else:
            self._record_use(result, *args, *kwargs.values())
            if func in _ACTIVATIONS:
                self.activations.append(result)
        return result

    def _record_use(self, result: Any, *args: Any) -> None:
        if isinstance(result, Tensor) and result.requires_grad:
            flat = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
            named = [self.parameters[id(x)][0] for x in flat if id(x) in self.parameters]
            self.outside += [(name, result) for name in named]

    def _record_linear(
        self,
        output: Tensor,
        input: Tensor,  # noqa: A002 - torch's own keyword
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> None:
        versions = (input._version, output._version)
        call = _Call(input, weight, bias, output, (1, 1), (1, 1), [0], 1, versions)
        self.calls.append(call)

    def _record_convolution(
        self,
        output: Tensor,
        input: Tensor,  # noqa: A002 - torch's own keyword
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> None:
        steps = _pair(dilation)
        if padding == "same":
            totals = [s * (k - 1) for s, k in zip(steps, weight.shape[2:], strict=True)]
        else:
            totals = [2 * p for p in _pair(0 if isinstance(padding, str) else padding)]
        # An odd zero of "same" goes right and below.
        zeros = [zero for total in reversed(totals) for zero in (total // 2, total - total // 2)]
        versions = (input._version, output._version)
        call = _Call(input, weight, bias, output, _pair(stride), steps, zeros, groups, versions)
        self.calls.append(call)

    def checked_calls(self, logits: Tensor) -> list[_Call]:
        """The calls of layers, after checking that they account for all of the moments."""
        calls = [
            call if id(call.bias) in self.parameters else call._replace(bias=None)
            for call in self.calls
            if id(call.weight) in self.parameters
        ]
        used = [p for call in calls for p in (call.weight, call.bias) if p is not None]
        counts = Counter(map(id, used))
        for parameter, count in counts.items():
            if count > 1:
                raise ValueError(
                    f"critic: parameter {self.parameters[parameter][0]!r} is used {count} times in "
                    "one forward pass; squared moment norms need every layer to be used once"
                )
        for call in calls:
            name, _ = self.parameters[id(call.weight)]
            if call.versions != (call.input._version, call.output._version):
                raise ValueError(
                    f"critic: an in-place operation overwrites the input or output of the layer of "
                    f"{name!r}; use out-of-place activations (inplace=False)"
                )
            if call.input.shape[0] != logits.shape[0]:
                raise ValueError(
                    f"critic: the layer of {name!r} sees {call.input.shape[0]} rows for "
                    f"{logits.shape[0]} images; its first dimension must be the batch"
                )
        self._check_outside(logits, set(counts))
        return calls

    def _check_outside(self, logits: Tensor, used: set[int]) -> None:
        unused = [named for key, named in self.parameters.items() if key not in used]
        outside = unused + self.outside
        if not outside:
            return
        gradients = torch.autograd.grad(
            logits.sum(), [tensor for _, tensor in outside], retain_graph=True, allow_unused=True
        )
        for (name, _), gradient in zip(outside, gradients, strict=True):
            if gradient is not None:
                raise ValueError(
                    f"critic: parameter {name!r} acts outside of its Linear or Conv2d layer's "
                    "forward; its moments cannot be accounted for"
                )


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A number, or a sequence of one or two, for both axes."""
    numbers = [value] if isinstance(value, int) else list(value)
    return (numbers[0], numbers[-1])
