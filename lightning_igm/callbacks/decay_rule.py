"""When a learning rate decays: after several tests in a row without progress."""

from collections.abc import Callable
from typing import Generic, TypeVar

from lightning_igm.checks import positive

__all__ = ["DecayRule"]

Entry = TypeVar("Entry")


class DecayRule(Generic[Entry]):
    """When to decay: after so many tests in a row without an improvement on the past.

    Args:
        patience: Failed tests in a row that make a decay, and entries kept after one.
        memory: Entries to remember; the test is against the oldest of them, and there is none
            before there are so many.
        level: Largest p of an improvement.

    Attributes:
        past: Remembered entries, oldest first.
        failures: Failed tests in a row.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> rule = DecayRule(patience=2, memory=3)
        >>> [rule.update(kid, lambda new, old: float(new >= old)) for kid in (5, 4, 3, 2, 4, 4, 1)]
        [False, False, False, False, False, True, False]
        >>> rule.past
        [2, 4, 1]
    """

    def __init__(self, patience: int = 3, memory: int = 10, level: float = 0.1) -> None:
        self.patience = positive("patience", patience)
        self.memory = positive("memory", memory)
        if not 0 < level < 1:
            raise ValueError(f"level: {level} is not allowed; it must be between 0 and 1")
        self.level = level
        self.past: list[Entry] = []
        self.failures = 0

    def update(self, entry: Entry, p: Callable[[Entry, Entry], float]) -> bool:
        """Take in an entry and tell whether to decay.

        Args:
            entry: The newest one.
            p: Called, if there is a test, with this entry and the oldest of the memory: the
                probability of what is seen if the new one were no better.
        """
        if len(self.past) >= self.memory and p(entry, self.past[0]) > self.level:
            self.failures += 1
            if self.failures < self.patience:
                return False
            self.past = [*self.past, entry][-self.patience :]
            self.failures = 0
            return True
        if len(self.past) >= self.memory:
            self.failures = 0
        self.past = [*self.past, entry][-self.memory :]
        return False
