"""Checks of arguments: one line with the argument, its value and what is allowed."""

from typing import Any

__all__ = ["above_zero", "non_negative", "one_of", "positive", "supported_precision"]


def positive(name: str, value: int, *, zero: bool = False) -> int:
    """Check that a count is 1 or more (0 or more with ``zero``).

    Raises:
        ValueError: It is not.
    """
    if value < (0 if zero else 1):
        raise ValueError(f"{name}: {value} is not allowed; it must be {0 if zero else 1} or more")
    return value


def above_zero(name: str, value: float) -> float:
    """Check that a number is above 0 and finite.

    Raises:
        ValueError: It is not.
    """
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: {value} is not allowed; it must be above 0, and finite")
    return value


def non_negative(name: str, value: float) -> float:
    """Check that a weight is 0 or more and finite.

    Raises:
        ValueError: It is not.
    """
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: {value} is not allowed; it must be 0 or more, and finite")
    return value


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> Any:
    """Check that a word is one of those allowed.

    Raises:
        ValueError: It is not.
    """
    if value not in allowed:
        raise ValueError(
            f"{name}: {value!r} is not allowed; it must be one of {', '.join(allowed)}"
        )
    return value


def supported_precision(value: Any) -> None:
    """Check that a trainer's precision is not float16, mixed or true.

    Raises:
        ValueError: It is.
    """
    if str(value) in ("16", "16-mixed", "16-true"):
        raise ValueError(
            f"trainer.precision: {value!r} is not supported (gradients of gradients underflow in "
            "float16); use '32-true', 'bf16-mixed' or '64-true'"
        )
