"""Attributes that a class and its bases list, such as ``logged`` and ``kept``."""

from collections.abc import Iterator

__all__ = ["declared"]


def declared(instance: object, attribute: str) -> Iterator[str]:
    """All that is listed, that of the class first.

    Args:
        instance: Of the class.
        attribute: Name of a tuple of words, such as ``logged``.
    """
    for kind in type(instance).__mro__:
        yield from vars(kind).get(attribute, ())
