"""Docstrings' Sphinx roles and literal blocks as Markdown."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`(~?)([\w.]+)`")
OWN = ("lightning_igm.",)


class PlainRoles(griffe.Extension):
    """A role becomes a link, ``::`` before a block a colon, an example a block of code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda match: self._link(obj, *match.groups()), obj.docstring.value)
            obj.docstring.value = as_markdown(text)

    @staticmethod
    def _link(obj: griffe.Object, short: str, name: str) -> str:
        shown = name.rpartition(".")[2] if short else name
        if name.startswith(OWN):
            return f"[`{shown}`][{name}]"
        scope: Any = obj
        while scope is not None:
            if name in scope.members:
                return f"[`{shown}`][{scope.path}.{name}]"
            scope = scope.parent
        return f"`{shown}`"


def as_markdown(text: str) -> str:
    """A docstring with its literal blocks as they are, and no tags by accident outside of them."""
    lines: list[str] = []
    block = -1  # Indentation of the line before the literal block that this line is in.
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if block >= 0 and (not line.strip() or indent > block):
            lines.append(line)
            continue
        block = indent if line.endswith("::") else -1
        line = re.sub(r"::$", ":", line).replace("``", "`")
        line = re.sub(r"^Example:$", "Examples:", line)
        if not line.lstrip().startswith((">>>", "...")):
            pieces = line.split("`")
            pieces[::2] = [re.sub(r"<(?=[a-zA-Z/])", "&lt;", piece) for piece in pieces[::2]]
            line = "`".join(pieces)
        lines.append(line)
    return "\n".join(lines)
