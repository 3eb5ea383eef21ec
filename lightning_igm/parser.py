"""The command line's parser: its errors are one line that says what would be allowed."""

import inspect
import re
import sys
from importlib import import_module
from typing import Any, NoReturn

import torch
from lightning.pytorch.cli import LightningArgumentParser

import datamodules
from lightning_igm import callbacks, modules, networks
from lightning_igm.losses import kernels

__all__ = ["OneLineParser", "is_method", "plain"]


def is_method(candidate: type) -> bool:
    """Whether a class is a method, and not a base class of methods."""
    bases = modules.ImplicitGenerativeModule
    return issubclass(candidate, bases) and not inspect.isabstract(candidate)


_NULL = " - Expected a <class 'NoneType'>"
_A_PRESET = "--config PRESET gives a model and data, and igm presets lists the presets"
# Not the bases, nor those that need a closure or sparse gradients.
_NO_OPTIMIZERS = ("Optimizer", "LBFGS", "SparseAdam")
_OPTIMIZERS = [n for n in torch.optim.__all__ if n[0].isupper() and n not in _NO_OPTIMIZERS]
_SCHEDULES = [n for n in torch.optim.lr_scheduler.__all__ if n[0].isupper() and n != "LRScheduler"]
_BASES = ("ImageDataModule", "InMemoryDataModule")
_KNOWN_CLASSES = {
    "model": [name for name in modules.__all__ if is_method(getattr(modules, name))],
    "data": [
        name for name in datamodules.__all__ if name.endswith("DataModule") and name not in _BASES
    ],
    "generator": [name for name in networks.__all__ if name.endswith("Generator")],
    "critic": [name for name in networks.__all__ if name.endswith("Critic")],
    "decoder": [name for name in networks.__all__ if name.endswith("Generator")],
    "autoencoder": ["Autoencoder"],
    "generator_optimizer": _OPTIMIZERS,
    "critic_optimizer": _OPTIMIZERS,
    "generator_scheduler": _SCHEDULES,
    "critic_scheduler": _SCHEDULES,
    "callbacks": callbacks.__all__,
    "logger": ["WandbLogger", "TensorBoardLogger", "CSVLogger"],
    "kernel": [name for name in kernels.__all__ if name not in ("Kernel", "Pairs")],
}


class OneLineParser(LightningArgumentParser):
    """Tells an error in one line, with what would be allowed."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the line, and exit."""
        if unknown := re.search(r"Option '(\S+)' is not accepted$", message):
            names = sorted({str(a.dest) for a in self._actions if "." not in a.dest})
            names = [name for name in names if name not in ("help", "print_shtab")]
            message = f"{unknown[1]}: unknown key; allowed: {', '.join(names)}"
        elif unknown := re.search(
            r"(?:[Uu]nrecognized arguments: --|does not accept option ')([\w.]+)", message
        ):
            message = f"{unknown[1]}: unknown key; allowed: {self._siblings(unknown[1])}"
        elif word := re.search(r"[Uu]nrecognized arguments: (\w[\w/]*)", message):
            message = f"{word[1]!r} is not an option; a preset goes by --config {word[1]}"
        elif re.search("arguments are required|is required but not", message):
            message += f"; {_A_PRESET}"
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"igm: {plain(message)}", file=sys.stderr)
        raise SystemExit(2)

    def format_help(self, *args: Any) -> str:
        """The help, without lists of hundreds of classes such as all of torch's modules."""
        text: str = super().format_help(*args)
        return re.sub(r",\s+known\s+subclasses:[^()]{2000,}\)", ")", text)

    def _siblings(self, key: str) -> str:
        """The keys beside one that is unknown, of whatever subcommand."""
        group = key.rpartition(".")[0]
        commands = getattr(self._subcommands_action, "_name_parser_map", {}) or {"": self}
        keys = {str(a.dest) for parser in commands.values() for a in parser._actions}
        beside = sorted({k for k in keys if k.rpartition(".")[0] == group} - {"help"})
        return ", ".join(beside or sorted({k.partition(".")[0] for k in keys} - {"help"}))


def plain(message: str) -> str:
    """The core of an error message, on one line: the option, its value, what is allowed."""
    line = " ".join(message.split())
    keys = re.findall(r'Parser key "([\w.]+)"', line)
    given = re.split("(?:Given|Got) value:(?: |$)", line)[-1]
    if re.match(r"\[?(\{|Namespace\()", given) and (inner := _innermost(message)):
        return inner
    reason = re.search(rf"Errors:(?:{_NULL})? - (.*?)(?: - Expected| Given value|$)", line)
    if not keys or given == line:
        return reason[1] if reason else line
    name = keys[0]
    # A wrong argument of a class is reported as one of the whole class, which could be null.
    if nested := re.fullmatch(r"NestedArg\(key='([\w.]+)', val=(.*)\)", given):
        name, given = f"{name}.{nested[1]}", nested[2].strip("'")
        head, mark, rest = line.partition("Errors:")  # Null comes first or last in them.
        rest = rest.removeprefix(_NULL) if rest.startswith(_NULL) else rest.rpartition(_NULL)[0]
        line = head + mark + rest
    if unknown := re.search(r": (unknown key; allowed: (?:\w+, )*\w+)", line):
        return f"{name}: {unknown[1]}"
    if needed := re.search(r"([\w.]+)': the following arguments are required: (\w+)", line):
        return f"{name}.{needed[2]}: not given; {needed[1].rpartition('.')[2]} needs it"
    kind = name.rpartition(".")[2]
    known = [*_KNOWN_CLASSES.get(kind, []), "package.module.Class"]
    classes = f"allowed: {', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}"
    if abstract := re.search(r"but (\S+ )?is abstract", line):
        if abstract[1] and abstract[1].strip() != given:
            return f"{keys[0]}: not given; {_A_PRESET}"
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
        if unknown := re.fullmatch(r"([\w.]+): (unknown key; allowed: .*)", text):
            return f"{where}.{unknown[1]}: {unknown[2]}"
        if needed := re.search(r"(?:arguments are required: |Option ')(\w+)", text):
            return f"{where}.{needed[1]}: not given, and needed"
        if wrong := re.fullmatch(r"Expected an? <class '(?:\w+\.)*(\w+)'>\. Got value: (.*)", text):
            return f"{where}: {wrong[2]} is not allowed; it must be {wrong[1]}"
        if re.fullmatch(r"[\w.]+: .* is not allowed; .*", text):
            return text
    return None


def _what_is_missing(path: str) -> str:
    """What an abstract class of the user's lacks."""
    module, _, name = path.rpartition(".")
    lacking = sorted(getattr(import_module(module), name).__abstractmethods__) if module else []
    return f"does not define {' and '.join(lacking)}" if lacking else "is a base class"
