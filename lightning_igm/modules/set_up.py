"""Checks and preparations before the first step: networks must fit the data and each other."""

from inspect import signature
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_igm.checks import positive, supported_trainer
from lightning_igm.distributed import world_size
from lightning_igm.losses._support import couples_images
from lightning_igm.modules.clock import log_by_generator_steps
from lightning_igm.modules.compilation import check_compiler
from lightning_igm.modules.modes import eval_mode
from lightning_igm.modules.monitors import prepare_callbacks
from lightning_igm.networks.batch_norm import synchronise_batch_norms

__all__ = [
    "check_generator",
    "check_independent_images",
    "check_takes_images",
    "latent_dim_of",
    "prepare",
    "stated_range",
    "try_out",
]


def prepare(
    module: LightningModule, stage: str, *, compiler: bool | str, channels_last: bool
) -> None:
    """Check a run's trainer and callbacks, and prepare the module for it.

    Under several ranks, batch norms are of the global batch from now on.

    Args:
        module: In its ``setup``.
        stage: See there.
        compiler: See :class:`~lightning_igm.modules.base.ImplicitGenerativeModule`.
        channels_last: See there.

    Raises:
        ValueError: Precision, strategy, a callback or the compiler cannot work.
    """
    supported_trainer(module.trainer)
    check_takes_images(module, "generator_loss")
    if stage == "fit":
        log_by_generator_steps(module.trainer)
        prepare_callbacks(module.trainer, module)
    if channels_last:
        module.to(memory_format=torch.channels_last)
    if compiler and stage == "fit":
        check_compiler(compiler, module.device)
    if world_size() > 1:
        synchronise_batch_norms(module)


def latent_dim_of(generator: nn.Module, latent_dim: int | None) -> int:
    """Size of a generator's latents.

    Args:
        generator: What is to be trained.
        latent_dim: As configured; None for the generator's own.

    Raises:
        ValueError: There is none, or they differ, or the generator has nothing to train.
    """
    kind = type(generator).__name__
    if not any(True for _ in generator.parameters()):
        raise ValueError(f"generator: {kind} has no parameters to train")
    expected = getattr(generator, "latent_dim", latent_dim)
    if latent_dim not in (None, expected):
        raise ValueError(
            f"latent_dim: the model's is {latent_dim} and the generator's is {expected}; "
            "they must be equal"
        )
    if expected is None:
        raise ValueError(
            f"latent_dim: null is not allowed with a {kind}, which has no "
            "attribute latent_dim; give the size of its latents"
        )
    return positive("latent_dim", expected)


def check_independent_images(name: str, generator: nn.Module) -> None:
    """Check that no layer of a generator makes the images of a batch depend on one another.

    Args:
        name: Of the argument that needs it.
        generator: In any mode.

    Raises:
        ValueError: One does.
    """
    for layer, module in generator.named_modules():
        if couples_images(module):
            raise ValueError(
                f"{name}: 'u_statistic' needs independent fakes, but the generator's "
                f"layer {layer!r} is a {type(module).__name__}; use a generator without "
                f"batch normalization, or {name} 'one_batch' or 'two_batch'"
            )


def stated_range(generator: nn.Module) -> tuple[float, float] | None:
    """The range that a generator states, or that its last activation implies."""
    stated: tuple[float, float] | None = getattr(generator, "value_range", None)
    implied: dict[type, tuple[float, float]] = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}
    last = [module for module in generator.modules() if not list(module.children())][-1:]
    return stated or next((implied.get(type(module)) for module in last), None)


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


def check_generator(
    module: Any, shape: tuple[int, ...] | None, value_range: tuple[float, float] | None
) -> None:
    """Check that a module's generator makes images like the data's, by a batch of them.

    Args:
        module: With a generator and latents for it.
        shape: Of one of the data's; None if it is not known.
        value_range: Of the data; None if it is not known.

    Raises:
        ValueError: They are not.
    """
    latent = module.sample_latent(16, torch.Generator().manual_seed(0))
    images = module.try_out("generator", latent, "latents")
    _check_images(images, stated_range(module.generator), shape, value_range)


def _check_images(
    images: Tensor,
    stated: tuple[float, float] | None,
    shape: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
) -> None:
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
