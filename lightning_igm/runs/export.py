"""A generator as a file for other programs."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.files import replacing
from lightning_igm.metrics.images import to_uint8
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.modes import eval_mode
from lightning_igm.modules.set_up import stated_range
from lightning_igm.runs.load import load

__all__ = ["QuantisedGenerator", "console", "export"]


class QuantisedGenerator(nn.Module):
    """A generator as torch-fidelity takes it: RGB images of 8 bits, from its own kinds of noise.

    Args:
        model: Whose generator; its output must state its range of values.

    Attributes:
        noise: torch-fidelity's name of the noise, ``normal`` or ``uniform_0_1``.

    Raises:
        ValueError: The generator makes no images, or does not state their range of values.

    Example:
        >>> from lightning_igm import GAN
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> model = GAN(DCGANGenerator(image_size=16), DCGANCritic(image_size=16))
        >>> generator = QuantisedGenerator(model)
        >>> images = generator(model.sample_latent(2))
        >>> images.shape, images.dtype
        (torch.Size([2, 3, 16, 16]), torch.uint8)
    """

    def __init__(self, model: ImplicitGenerativeModule) -> None:
        super().__init__()
        value_range = stated_range(model.generator)
        if value_range is None:
            raise ValueError(
                f"generator: {type(model.generator).__name__} states no range of values; give it "
                "an attribute value_range, or end it with a sigmoid or tanh"
            )
        self.generator = model.image_generator
        self.value_range = value_range
        self.uniform = model.latent_distribution == "uniform"
        self.noise = "normal" if model.latent_distribution == "normal" else "uniform_0_1"

    def forward(self, noise: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)`` of uint8 for noise ``(N, latent_dim)``."""
        images = self.generator(2 * noise - 1 if self.uniform else noise)
        if images.dim() != 4:
            raise ValueError(f"generator: {tuple(images.shape)} is not allowed; it must be images")
        return to_uint8(images, self.value_range).expand(-1, 3, -1, -1)


def export(model: ImplicitGenerativeModule, path: str | Path) -> None:
    """Write the generator as a program that runs without this package.

    A ``.pth`` file is a :class:`QuantisedGenerator` in TorchScript, which torch-fidelity's command
    takes; a ``.pt2`` file is the generator itself, latents to float images, by ``torch.export``.
    Images of codes are decoded in either.

    Args:
        model: Whose generator.
        path: Of the file, which must not exist.

    Raises:
        ValueError: The file exists, its suffix is another, or its generator is none of images.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"out: '{path}' exists; choose another file")
    if path.suffix not in (".pth", ".pt2"):
        raise ValueError(f"out: '{path}' is not allowed; it must end with .pth or .pt2")
    example = model.sample_latent(2)
    if path.suffix == ".pt2":
        batch = ({0: torch.export.Dim("batch")},)
        with eval_mode(model.generator), eval_mode(model.image_generator):
            program = torch.export.export(model.image_generator, (example,), dynamic_shapes=batch)
        with replacing(path, "wb") as file:
            torch.export.save(program, file)
        return
    jit: Any = torch.jit
    with warnings.catch_warnings(), replacing(path, "wb") as file:
        # torch-fidelity reads nothing newer. Our checks of shapes need not be in it.
        warnings.simplefilter("ignore", jit.TracerWarning)
        warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        # A copy: of a generator that was compiled to train, it is not compiled.
        jit.save(jit.trace(deepcopy(QuantisedGenerator(model)).eval(), example), file)


def console(arguments: Sequence[str]) -> None:
    """Entry point of ``igm export``."""
    parser = argparse.ArgumentParser(
        prog="igm export",
        description="Write a run's generator as a program that runs without this package.",
    )
    parser.add_argument("run", type=Path, help="a run's folder, or a checkpoint")
    parser.add_argument(
        "out", type=Path, help=".pth: TorchScript for torch-fidelity; .pt2: torch.export"
    )
    parser.add_argument("--weights", choices=("average", "raw"), default="average")
    parser.add_argument(
        "--import", dest="module", help="module of the run's class, if it is one of your own"
    )
    given = parser.parse_args(arguments)
    if given.module is not None:
        sys.path.insert(0, os.getcwd())
        try:
            import_module(given.module)
        except ImportError as error:
            raise ValueError(f"import: {given.module!r} cannot be imported ({error})") from error
    model = load(given.run, given.weights)
    export(model, given.out)
    if given.out.suffix == ".pth":
        noise = QuantisedGenerator(model).noise
        print(
            f"fidelity --input1 {given.out} --input1-model-z-type {noise} "
            f"--input1-model-z-size {model.latent_dim} --input1-model-num-samples 50000 "
            "--input2 FOLDER --isc --fid --kid"
        )
