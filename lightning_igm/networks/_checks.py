"""One-line errors for the arguments and inputs of networks."""

from typing import get_args

from torch import Tensor


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise unless ``value`` is one of the values of the ``Literal`` type ``choices``."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")


def check_positive(**values: int) -> None:
    """Raise for the first argument below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value!r}: must be at least 1")


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise unless ``tensor`` has shape ``(N, *expected)``, for any N."""
    if tensor.shape[1:] != expected:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"{name} of shape (N, {wanted}) expected, found {tuple(tensor.shape)}")


def check_multiple_of_32(image_size: int) -> None:
    """Check that maps can be halved five times.

    Raises:
        ValueError: They cannot.
    """
    if image_size < 32 or image_size % 32:
        raise ValueError(f"image_size={image_size!r}: allowed are multiples of 32")
