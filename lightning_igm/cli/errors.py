"""Errors of the command line as one line: the option, its value, what is allowed."""

import re
from importlib import import_module

from lightning_igm.cli.names import KNOWN_CLASSES, KNOWN_TO_LIGHTNING, did_you_mean
from lightning_igm.modules.players import UNFIT_SCHEDULES

__all__ = ["A_PRESET", "NotParsedError", "plain"]

A_PRESET = "--config PRESET gives a model and data, and igm presets lists the presets"
_NULL = " - Expected a <class 'NoneType'>"
_UNKNOWN_KEY = r"unknown key; (?:did you mean \w+\? ?)?(?:allowed: (?:\w+, )*\w+)?"
_PROBLEM = (
    r"Problem with given class_path '(?:\w+\.)*(\w+)': (?!Problem with)(.*?)"
    r"(?: - (?:Expected|Not) a| Given value|$)"
)


class NotParsedError(ValueError):
    """A command line that cannot be parsed."""


def plain(message: str) -> str:
    """The core of an error message, on one line: the option, its value, what is allowed."""
    line = " ".join(message.split())
    keys = re.findall(r'Parser key "([\w.]+)"', line)
    given = re.split("(?:Given|Got) value:(?: |$)", line)[-1]
    unfit = re.search(rf"'(?:\w+\.)*({'|'.join(UNFIT_SCHEDULES)})'", f"{line} '{given}'")
    if unfit and (schedule := re.search(r"(?:\w+\.)*\w+_scheduler\b", line)):
        return f"{schedule[0]}: {unfit[1]} is not allowed; {UNFIT_SCHEDULES[unfit[1]]}"
    if re.match(r"\[?(\{|Namespace\()", given) and (inner := _innermost(message)):
        return inner
    reason = re.search(rf"Errors:(?:{_NULL})? - (.*?)(?: - Expected| - Not a| Given value|$)", line)
    if not keys and (problem := re.search(_PROBLEM, line)):
        return problem[2] if problem[1] in problem[2] else f"{problem[1]}: {problem[2]}"
    if not keys or given == line:
        return reason[1] if reason else line
    name = keys[0]
    # A wrong argument of a class is reported as one of the whole class, which could be null.
    if nested := re.fullmatch(r"NestedArg\(key='([\w.-]+)', val=(.*)\)", given):
        name, given = f"{name}.{nested[1]}", nested[2].strip("'")
        head, mark, rest = line.partition("Errors:")  # Null comes first or last in them.
        rest = rest.removeprefix(_NULL) if rest.startswith(_NULL) else rest.rpartition(_NULL)[0]
        line = head + mark + rest
    if unknown := re.search(rf": ({_UNKNOWN_KEY})", line):
        return f"{name}: {unknown[1].strip()}"
    if needed := re.search(r"([\w.]+)': the following arguments are required: (\w+)", line):
        return f"{name}.{needed[2]}: not given; {needed[1].rpartition('.')[2]} needs it"
    kind = name.rpartition(".")[2]
    known = [*KNOWN_CLASSES.get(kind, []), "package.module.Class"]
    near = did_you_mean(given, [*known, *KNOWN_TO_LIGHTNING.get(kind, [])])
    classes = f"{near}allowed: {', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}"
    if abstract := re.search(r"but (\S+ )?is abstract", line):
        if abstract[1] and abstract[1].strip() != given:
            return f"{keys[0]}: not given; {A_PRESET}"
        return f"{name}: {given!r} {_what_is_missing(given)}; {classes}"
    if base := re.search(r"not correspond to a subclass of (\w+)", line):
        return f"{name}: {given!r} is not a subclass of {base[1]}; {classes}"
    if absent := re.search(r"module '\S+' has no attribute '\w+'|No module named '\S+'", line):
        return f"{name}: {given!r} cannot be imported ({absent[0]}); {classes}"
    line = re.split('Parser key "', line)[-1]
    if kind == "logger":
        return f"{name}: {given!r} is not known; {classes}, true or false"
    types = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", line)
    types += re.findall(r"Expected an? typing.Literal\[(.*?)\]", line)
    types = list(dict.fromkeys("null" if kind == "NoneType" else kind for kind in types))
    if types and types != ["null"]:
        return f"{name}: {given} is not allowed; it must be {' or '.join(types)}"
    if "Expected a dot import path" in line:
        return f"{name}: {given!r} is not known; {classes}"
    return f"{name}: {given} is not allowed ({reason[1] if reason else line})"


def _innermost(message: str) -> str | None:
    """The error of an argument within a class, by its whole key; lines are indented by depth."""
    path: list[tuple[int, str]] = []
    for line in message.splitlines():
        text = line.lstrip(" -")
        depth = len(line) - len(text)
        if key := re.match(r'Parser key "([\w.]+)":', text):
            path = [*((at, name) for at, name in path if at < depth), (depth, key[1])]
        where = ".".join(name for _, name in path)
        if unknown := re.fullmatch(r"([\w.]+): (unknown key; .*)", text):
            return f"{where}.{unknown[1]}: {unknown[2]}"
        if needed := re.search(r"(?:arguments are required: |Option ')(\w+)", text):
            return f"{where}.{needed[1]}: not given, and needed"
        if wrong := re.fullmatch(r"Expected an? <class '(?:\w+\.)*(\w+)'>\. Got value: (.*)", text):
            return f"{where}: {wrong[2]} is not allowed; it must be {wrong[1]}"
        if re.fullmatch(r"[\w.]+: .* is not allowed; .*", text):
            return text
    return None


def _what_is_missing(path: str) -> str:
    """Message about the methods that a user's abstract class lacks."""
    module, _, name = path.rpartition(".")
    lacking = sorted(getattr(import_module(module), name).__abstractmethods__) if module else []
    return f"does not define {' and '.join(lacking)}" if lacking else "is a base class"
