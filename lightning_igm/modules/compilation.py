"""Compiling the networks that train, where torch.compile allows it."""

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["check_compiler", "compile_in_place"]


def check_compiler(compiler: bool | str, device: torch.device) -> None:
    """Check a backend of ``torch.compile`` by compiling next to nothing.

    In a training step what is missing would be told in pages.

    Args:
        compiler: True for the default backend, or the name of another one.
        device: Where the networks run.

    Raises:
        ValueError: The backend is unknown, or lacks a compiler.
    """
    try:
        torch.compile(lambda x: x + 1, backend=_backend(compiler))(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise ValueError(
            f"compile: {compiler} is not allowed here ({reason}); it must be false, or a backend "
            "of torch.compile whose compiler is installed"
        ) from error


def compile_in_place(networks: Iterable[nn.Module], compiler: bool | str) -> None:
    """Compile networks, each when it is first called; their parameters keep their names.

    Args:
        networks: Each is compiled by itself.
        compiler: See :func:`check_compiler`.
    """
    for network in networks:
        network.compile(backend=_backend(compiler))


def _backend(compiler: bool | str) -> str:
    return "inductor" if compiler is True else str(compiler)
