"""The command line's parser: each error is one line that says what is allowed."""

import re
from collections.abc import Sequence
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_igm import data, modules
from lightning_igm.cli.errors import A_PRESET, NotParsedError, plain
from lightning_igm.cli.names import did_you_mean
from lightning_igm.modules.earlier_versions import bring_up_to_date
from lightning_igm.modules.players import UNFIT_SCHEDULES

__all__ = ["OneLineParser", "check_schedules", "classes_first", "current_model", "current_paths"]

# A default such as Timer's Interval.step is written to the run's config as the word that it is.
yaml.SafeDumper.add_multi_representer(
    Enum, lambda dumper, member: dumper.represent_data(member.value)
)
_LONG_LIST = 20  # Names; of more, the nearest is enough.


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
    return path[0] if _is_users(path[0]) or not _is_there(new) else new


def _is_users(path: str) -> bool:
    """Whether a class is in a folder ``datamodules`` that is not ours, as it is in a clone."""
    found = find_spec("datamodules")
    folders = found.submodule_search_locations if found else None
    ours = Path(data.__file__).resolve().parent
    return any(Path(f).resolve() != ours for f in folders or ()) and _is_there(path)


def _is_there(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def current_model(text: str) -> str:
    """A config whose model is configured as of now, perhaps from one of an earlier version.

    Args:
        text: YAML.
    """
    # Few configs have these, and only they are read and written anew.
    if not re.search(r"\b(decoder|critic_(burst_)?steps)\b", text):
        return text
    try:
        config = yaml.safe_load(text)
        model = config["model"]
        path, arguments = model["class_path"], model["init_args"]
        module, _, name = path.rpartition(".")
        kind = getattr(import_module(module) if module else modules, name)
        names = list(arguments)
        new = bring_up_to_date(kind, arguments)
    except (yaml.YAMLError, ImportError, AttributeError, KeyError, TypeError):
        return text  # Whatever is wrong, the parser tells it.
    if new is kind and names == list(arguments):
        return text
    if new is not kind:
        model["class_path"] = f"{new.__module__}.{new.__name__}"
    written: str = yaml.safe_dump(config, sort_keys=False)
    return written


class OneLineParser(LightningArgumentParser):
    """Tells an error in one line, with what would be allowed."""

    def parse_string(self, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a config, which may be of an older version; what it inherits comes before it."""
        # jsonargparse itself calls it by a keyword, which 4.47 calls otherwise.
        text, *others = args or [kwargs.pop("content" if "content" in kwargs else "cfg_str")]
        own = re.sub(r"^base:.*\n?", "", current_paths(text), flags=re.MULTILINE)
        parsed: Namespace = super().parse_string(current_model(own), *others, **kwargs)
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
            message += f"; {A_PRESET}"
        if not self.exit_on_error:
            super().error(message, ex)
        raise NotParsedError(plain(message)) from ex

    def format_help(self, *args: Any) -> str:
        """The help, without lists of hundreds of classes such as all of torch's modules."""
        text: str = super().format_help(*args)
        return re.sub(r",\s+known\s+subclasses:[^()]{2000,}\)", ")", text)

    def _unknown(self, key: str) -> str:
        """Message about an unknown key: the nearest known one, of any subcommand."""
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
