"""The command line's parser: its errors are one line that says what would be allowed."""

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_igm import callbacks, data, modules, networks
from lightning_igm.losses import fields, kernels
from lightning_igm.modules.settings import UNFIT_SCHEDULES

__all__ = [
    "NotParsedError",
    "OneLineParser",
    "check_schedules",
    "classes_first",
    "current_paths",
    "did_you_mean",
    "is_method",
    "plain",
]

# A default such as Timer's Interval.step is written to the run's config as the word that it is.
yaml.SafeDumper.add_multi_representer(
    Enum, lambda dumper, member: dumper.represent_data(member.value)
)


class NotParsedError(ValueError):
    """A command line that cannot be parsed."""


def is_method(candidate: type) -> bool:
    """Whether a class is a method, and not a base class of methods."""
    bases = modules.ImplicitGenerativeModule
    return issubclass(candidate, bases) and not inspect.isabstract(candidate)


_LONG_LIST = 20  # Names; of more, the nearest is enough.
_NULL = " - Expected a <class 'NoneType'>"
_UNKNOWN_KEY = r"unknown key; (?:did you mean \w+\? ?)?(?:allowed: (?:\w+, )*\w+)?"
_PROBLEM = (
    r"Problem with given class_path '(?:\w+\.)*(\w+)': (?!Problem with)(.*?)"
    r"(?: - (?:Expected|Not) a| Given value|$)"
)
_A_PRESET = "--config PRESET gives a model and data, and igm presets lists the presets"
# Not the bases, nor those that need a closure or sparse gradients.
_NO_OPTIMIZERS = ("Optimizer", "LBFGS", "SparseAdam")
_OPTIMIZERS = [n for n in torch.optim.__all__ if n[0].isupper() and n not in _NO_OPTIMIZERS]
_NO_SCHEDULES = ("LRScheduler", *UNFIT_SCHEDULES)
_SCHEDULES = [n for n in torch.optim.lr_scheduler.__all__ if n not in _NO_SCHEDULES]
_BASES = ("ImageDataModule", "InMemoryDataModule")
_KNOWN_CLASSES = {
    "model": [name for name in modules.__all__ if is_method(getattr(modules, name))],
    "data": [name for name in data.__all__ if name.endswith("DataModule") and name not in _BASES],
    "generator": [name for name in networks.__all__ if name.endswith("Generator")],
    "critic": [name for name in networks.__all__ if name.endswith("Critic")],
    "decoder": [name for name in networks.__all__ if name.endswith("Generator")],
    "autoencoder": ["Autoencoder"],
    "features": ["DigitFeatures", "ImageStatistics", "LayerFeatures"],
    "field": [name for name in fields.__all__ if name.endswith("Field") and name != "Field"],
    "generator_optimizer": _OPTIMIZERS,
    "critic_optimizer": _OPTIMIZERS,
    "generator_scheduler": _SCHEDULES,
    "critic_scheduler": _SCHEDULES,
    "callbacks": callbacks.__all__,
    "logger": ["WandbLogger", "TensorBoardLogger", "CSVLogger"],
    "kernel": [name for name in kernels.__all__ if name not in ("Kernel", "Pairs")],
}
# They are found by name, too.
_KNOWN_TO_LIGHTNING = {
    "callbacks": [n for n in lightning.pytorch.callbacks.__all__ if n != "Callback"],
    "logger": [n for n in lightning.pytorch.loggers.__all__ if n != "Logger"],
}


def current_paths(text: str) -> str:
    """Class paths of data modules in a config, or an option, of before they moved.

    Args:
        text: What may name ``datamodules.X``.

    Returns:
        The text with ``lightning_igm.data.X``, unless a folder ``datamodules`` of the user's own
        has such a class.

    Example:
        >>> current_paths("--data=datamodules.digits.DigitsDataModule")
        '--data=lightning_igm.data.digits.DigitsDataModule'
    """
    return re.sub(r"(?<![\w./])datamodules((?:\.\w+)+)", _moved, text)


def _moved(path: re.Match[str]) -> str:
    new = f"lightning_igm.data{path[1]}"
    ours, found = _file_of(new), _file_of(path[0])
    return new if ours and found in (None, ours) else path[0]


def _file_of(path: str) -> Path | None:
    """The file that defines a class, links followed; none if there is no such class."""
    module, _, name = path.rpartition(".")
    try:
        return Path(inspect.getfile(getattr(import_module(module), name))).resolve()
    except (ImportError, AttributeError, TypeError):
        return None


class OneLineParser(LightningArgumentParser):
    """Tells an error in one line, with what would be allowed."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a config, which may be of an older version."""
        parsed: Namespace = super().parse_string(current_paths(content), *args, **kwargs)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise it with the line.

        Raises:
            NotParsedError: Always.
        """
        if unknown := re.search(
            r"(?:[Uu]nrecognized arguments: --|does not accept option '"
            r"|Option '(?=\S+' is not accepted))([\w.-]+)",
            message,
        ):
            message = self._unknown(unknown[1])
        elif word := re.search(r"[Uu]nrecognized arguments: (\w[\w/]*)", message):
            message = f"{word[1]!r} is not an option; a preset goes by --config {word[1]}"
        elif re.search("arguments are required|is required but not", message):
            message += f"; {_A_PRESET}"
        if not self.exit_on_error:
            super().error(message, ex)
        raise NotParsedError(plain(message)) from ex

    def format_help(self, *args: Any) -> str:
        """The help, without lists of hundreds of classes such as all of torch's modules."""
        text: str = super().format_help(*args)
        return re.sub(r",\s+known\s+subclasses:[^()]{2000,}\)", ")", text)

    def _unknown(self, key: str) -> str:
        """What to say of an unknown key: the nearest beside it, of whatever subcommand."""
        commands = getattr(self._subcommands_action, "_name_parser_map", {}) or {"": self}
        keys = [str(a.dest).split(".") for parser in commands.values() for a in parser._actions]
        group = key.split(".")[:-1]
        while group and not any(known[: len(group)] == group for known in keys):
            group.pop()
        at = len(group)
        beside = {known[at] for known in keys if known[:at] == group and len(known) > at}
        names = sorted(beside - {"help", "print_shtab"})
        near = did_you_mean(key.split(".")[at], names)
        if near and len(names) > _LONG_LIST:
            return f"{key}: unknown key; {near.strip()}"
        return f"{key}: unknown key; {near}allowed: {', '.join(names)}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The nearest of the words that are known, as a question before a list of them; or nothing.

    Example:
        >>> did_you_mean("MolM", ["GAN", "MoLM"])
        'did you mean MoLM? '
    """
    spelled = {name.lower(): name for name in known if word not in known}
    word = word.rpartition(".")[2].lower()
    near = get_close_matches(word, spelled)
    near.sort(key=lambda name: sorted(name) != sorted(word))  # Letters that changed places.
    return f"did you mean {spelled[near[0]]}? " if near else ""


def classes_first(words: Sequence[str]) -> list[str]:
    """Put what names a class before the options of the class, wherever they stood.

    Args:
        words: A command line.

    Returns:
        The command line, options of fewer parts first. With classes that are appended to a list, as
        by ``--trainer.callbacks+=``, an option is of the last one before it, or else of the first.

    Example:
        >>> classes_first(["fit", "--model.critic_steps", "2", "--model=MoLM"])
        ['fit', '--model=MoLM', '--model.critic_steps', '2']
    """
    options: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            options.append([])
        options[-1].append(word)
    keys = [re.sub(r"\.init_args\b", "", option[0].partition("=")[0]) for option in options[1:]]
    lists = {key[:-1] for key in keys if key[-1:] == "+"}
    first = {
        name: min(place for place, key in enumerate(keys) if key in (name, f"{name}+"))
        for name in lists
    }

    def rank(place: int) -> tuple[int, float]:
        for name in lists:
            if keys[place].startswith(f"{name}."):
                return name.count("."), max(place, first[name] + 0.5)
        return keys[place].count("."), place

    order = sorted(range(len(keys)), key=rank)
    return [word for option in [options[0], *(options[1 + i] for i in order)] for word in option]


def check_schedules(model: Any) -> None:
    """Check that no schedule is configured that cannot be had.

    Args:
        model: Its class and arguments, as parsed.

    Raises:
        ValueError: One is.
    """
    for name, schedule in vars(model.init_args).items():
        kind = getattr(schedule, "class_path", "").rpartition(".")[2]
        if name.endswith("_scheduler") and kind in UNFIT_SCHEDULES:
            raise ValueError(f"model.{name}: {kind} is not allowed; {UNFIT_SCHEDULES[kind]}")


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
    known = [*_KNOWN_CLASSES.get(kind, []), "package.module.Class"]
    near = did_you_mean(given, [*known, *_KNOWN_TO_LIGHTNING.get(kind, [])])
    classes = f"{near}allowed: {', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}"
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
    """What an abstract class of the user's lacks."""
    module, _, name = path.rpartition(".")
    lacking = sorted(getattr(import_module(module), name).__abstractmethods__) if module else []
    return f"does not define {' and '.join(lacking)}" if lacking else "is a base class"
