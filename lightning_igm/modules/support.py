"""What the base classes need beside PyTorch: modes, buffers, hyper-parameters."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from numbers import Real
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

__all__ = [
    "check_images",
    "check_loss",
    "check_takes_images",
    "eval_mode",
    "is_plain",
    "kept_buffers",
    "save_plain_hyperparameters",
    "scalars",
    "stated_range",
    "try_out",
]


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and every part of it back afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def kept_buffers(network: nn.Module) -> Iterator[None]:
    """Put a network's buffers (running statistics) back afterwards."""
    kept = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), kept, strict=True):
                buffer.copy_(value)


def is_plain(value: Any) -> bool:
    """Whether a value is numbers, words and containers of them."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def save_plain_hyperparameters(module: LightningModule) -> None:
    """Keep hyper-parameters in checkpoints, as far as they load without executing code.

    The command line's are plain data, networks and optimizers included (class paths). Networks and
    optimizers passed as Python objects are left out; ``load_from_checkpoint`` takes them by name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")
        module.save_hyperparameters(logger=False)
    for name in [name for name, value in module.hparams.items() if not is_plain(value)]:
        del module.hparams[name]


def stated_range(generator: nn.Module) -> tuple[float, float] | None:
    """The range that a generator states, or that its last activation implies."""
    stated: tuple[float, float] | None = getattr(generator, "value_range", None)
    implied: dict[type, tuple[float, float]] = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}
    last = [module for module in generator.modules() if not list(module.children())][-1:]
    return stated or next((implied.get(type(module)) for module in last), None)


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


def scalars(values: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """Values to be logged as tensors ``()`` without graph, where they are; numbers on the CPU.

    Raises:
        ValueError: One is neither a number nor a tensor of one.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, Real):  # In float64 no digit is lost.
            value = torch.tensor(float(value), dtype=torch.float64)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise ValueError(
                f"{name}: a {type(value).__name__}{shape} is not allowed; what is logged must be a "
                "real number, or a tensor of one"
            )
        found[name] = value.detach().reshape(())
    return found


def check_takes_images(module: nn.Module, name: str) -> None:
    """Check that a loss takes real and generated images.

    Raises:
        ValueError: It does not.
    """
    try:
        signature(getattr(module, name)).bind("real", "fake")
    except TypeError as error:
        raise ValueError(
            f"{type(module).__name__}.{name}: it is called with real and fake, and does not take "
            f"them ({error})"
        ) from error


def check_images(
    images: Tensor,
    stated: tuple[float, float] | None,
    shape: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
) -> None:
    """Check that a generator's images are like the data's.

    Args:
        images: ``(N, C, H, W)``, generated.
        stated: The range that the generator states; that of the images if it states none.
        shape: Of one of the data's; None if it is not known.
        value_range: Of the data; None if it is not known.

    Raises:
        ValueError: They are not.
    """
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise ValueError(
            f"generator: its images are {tuple(images.shape[1:])} (C, H, W) and the data's "
            f"are {tuple(shape)}; set both to the same size"
        )
    if value_range is None:
        return
    low, high = value_range
    made = stated or (min(low, images.min().item()), max(high, images.max().item()))
    if tuple(made) != (low, high):
        raise ValueError(
            f"generator: its values are in {list(made)} and the data's in {[low, high]}; "
            "change the generator's output (sigmoid: [0, 1], tanh: [-1, 1]) or data.value_range"
        )


@torch.no_grad()
def try_out(name: str, network: nn.Module, inputs: Tensor, what: str) -> Tensor:
    """Outputs of a network in eval mode.

    Args:
        name: Of the argument that is the network.
        network: On any device.
        inputs: What it is to take.
        what: What these are, in the plural.

    Raises:
        ValueError: It does not take them, or gives no tensor.
    """
    kind = type(network).__name__
    # In setup it is not yet the module's device: Lightning moves networks afterwards.
    inputs = inputs.to(next(network.parameters(), inputs).device)
    try:
        with eval_mode(network):
            outputs: Any = network(inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name}: {kind} does not take {what} {tuple(inputs.shape)}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise ValueError(f"{name}: {kind} gives a {type(outputs).__name__}, not a tensor")
    return outputs
