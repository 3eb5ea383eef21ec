"""Recorder of the inputs and outputs of a critic's layers, and the gradients from them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from lightning_igm.losses._ghost_norms import norms_by_gradient, norms_by_gram

__all__ = ["Call", "Recorder"]

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

# With these and with linear and convolutional layers, the gradient at a layer's output is piecewise
# constant in the images. ("__get__" is reading an attribute like shape.)
_PIECEWISE_LINEAR = frozenset(
    [
        "leaky_relu",
        "relu",
        "relu6",
        "hardtanh",
        "pad",
        "add",
        "mean",
        "sum",
        "avg_pool2d",
        "flatten",
        "unflatten",
        "reshape",
        "view",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "size",
        "dim",
        "__get__",
        "__getitem__",
    ]
)


class Call(NamedTuple):
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

    def gradients(self, delta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The layer's parameters and the gradients in them; delta: its output's gradient."""
        if self.weight.dim() == 2:
            gradient = delta.flatten(0, -2).mT @ self.input.flatten(0, -2)
            sums = delta.flatten(0, -2).sum(0)
        else:
            image = F.pad(self.input, self.padding) if any(self.padding) else self.input
            shape, steps = tuple(self.weight.shape), (self.stride, 0, self.dilation, self.groups)
            gradient = conv2d_weight(image, shape, delta, *steps)
            sums = delta.sum((0, 2, 3))
        yield self.weight, gradient
        if self.bias is not None:
            yield self.bias, sums

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
        way = norms_by_gram if by_gram < by_gradient else norms_by_gradient
        kernel = (weight.shape[2], weight.shape[3])
        norms = way(image, delta, kernel, self.stride, self.dilation)
        if self.bias is not None:
            norms = norms + delta.sum((2, 3)).square().sum(1)
        return norms.view(n, self.groups).sum(1)


class Recorder(TorchFunctionMode):
    """Keeps what every layer of a critic sees and says during one forward pass."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parameters = {id(p): (name, p) for name, p in parameters.items()}
        self.calls: list[Call] = []
        self.activations: list[Tensor] = []
        self.functions: set[str] = set()
        """Names of the other functions that were called."""
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
            self.functions.add(getattr(func, "__name__", "?"))
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
        call = Call(input, weight, bias, output, (1, 1), (1, 1), [0], 1, versions)
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
        call = Call(input, weight, bias, output, _pair(stride), steps, zeros, groups, versions)
        self.calls.append(call)

    @property
    def piecewise_linear(self) -> bool:
        """Whether the critic's output is known to be piecewise linear in its input."""
        return self.functions <= _PIECEWISE_LINEAR

    def checked_calls(self, logits: Tensor) -> list[Call]:
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
