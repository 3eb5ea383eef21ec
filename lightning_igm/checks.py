"""Checks of arguments: one line with the argument, its value and what is allowed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "above_zero",
    "checkpoint_has_all",
    "non_negative",
    "one_of",
    "positive",
    "supported_precision",
    "supported_trainer",
]


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
    """Check that a trainer's precision keeps weights in float32 or better, and is not float16.

    Raises:
        ValueError: It is.
    """
    name = str(value)
    if name in ("16", "16-mixed", "16-true"):
        reason = "gradients of gradients underflow in float16"
    elif name == "bf16-true" or name.startswith("transformer-engine"):
        reason = "small updates are lost in weights of so few digits"
    else:
        return
    raise ValueError(
        f"trainer.precision: {value!r} is not supported ({reason}); use '32-true', 'bf16-mixed' or "
        "'64-true'"
    )


def supported_trainer(trainer: Any) -> None:
    """Check a trainer's precision, and that its strategy leaves networks whole on every process.

    Raises:
        ValueError: It does not.
    """
    supported_precision(trainer.precision)
    strategy = type(trainer.strategy)
    # By name, as losses and metrics use this file, too, and need no Lightning.
    names = {kind.__name__ for kind in strategy.__mro__}
    if not names & {"SingleDeviceStrategy", "DDPStrategy"} or "DeepSpeedStrategy" in names:
        raise ValueError(
            f"trainer.strategy: {strategy.__name__} is not supported (losses and gradients "
            "are exact where every process has all weights); use 'auto' or 'ddp'"
        )


@contextmanager
def checkpoint_has_all(where: str) -> Iterator[None]:
    """Say of what the body does not find in a checkpoint that the checkpoint is of another version.

    Args:
        where: The part of the checkpoint.

    Raises:
        ValueError: The body raised a KeyError.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"ckpt_path: the checkpoint has no {error} in {where}; another version of "
            "lightning_igm or another method wrote it, go on with that"
        ) from error
