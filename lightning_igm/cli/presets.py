"""The presets that ship with the package: what ``igm presets`` lists and ``--config`` finds."""

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = [
    "Preset",
    "find_config",
    "folder_of_presets",
    "method_of",
    "preset_table",
    "presets",
    "read_config",
    "read_preset",
    "with_bases",
    "with_config_files",
]

_YAML = re.compile(r"[:{\n]")  # A config can be given as YAML itself.
_PAPER = re.compile(r"^# Paper: (.*)$", re.MULTILINE)


class Preset(NamedTuple):
    """A preset's name for ``--config``, and what it trains on what."""

    name: str
    method: str
    data: str
    paper: str


def folder_of_presets() -> Path:
    """Folder of the presets: within an installed package, and beside it in a clone."""
    package = Path(__file__).parents[1]
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def presets() -> dict[str, Path]:
    """Files of all presets by name.

    Example:
        >>> presets()["molm/cifar10"].name
        'cifar10.yaml'
    """
    folder = folder_of_presets()
    files = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")
    }
    return {name: files[name] for name in sorted(files) if not name.startswith("sweeps/")}


def method_of(preset: str) -> str:
    """Name of the class that a preset trains.

    Example:
        >>> method_of("mmdgan/digits_li")
        'AutoencoderMMDGAN'
    """
    return _describe(preset, presets()[preset]).method


def find_config(name: str) -> Path:
    """Find a config: a file, or else a preset by its name, ``configs/`` and ``.yaml`` or not.

    Raises:
        FileNotFoundError: It is neither.

    Example:
        >>> find_config("configs/molm/cifar10.yaml").name
        'cifar10.yaml'
    """
    if Path(name).is_file():
        return Path(name)
    known = presets()
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    if wanted in known:
        return known[wanted]
    near = " or ".join(get_close_matches(wanted, known))
    raise FileNotFoundError(
        f"config: {name!r} is neither a file nor a preset; "
        + (f"did you mean {near}?" if near else "igm presets lists the presets")
    )


def with_config_files(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Replace what follows ``--config`` or ``-c`` by the files that it names, and put them first.

    Other options win over them wherever they stand.

    Args:
        words: A command line.

    Returns:
        The command line, and the config files in it.

    Raises:
        FileNotFoundError: A config is neither a file nor a preset.
        ValueError: A config is not given, or no YAML of options.
    """
    parser = ArgumentParser(prog="igm", add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[], nargs="?", const="")
    found, line = parser.parse_known_args(words)
    given = [c if _YAML.search(c) else find_config(c) for c in found.config]
    files = {c: read_config(c) for c in given if isinstance(c, Path)}
    configs = [part for c in given for part in (with_bases(c) if isinstance(c, Path) else [c])]
    commands = 0 if not line or line[0].startswith("-") else 1
    folders = [f"--run.dir={file.parent}" for file in files if _is_of_a_run(file, files[file])]
    line[commands:commands] = [*(f"--config={config}" for config in configs), *folders]
    return line, list(files)


def with_bases(path: Path) -> list[Path]:
    """A config and those that it inherits from by ``base:``, the most basic first.

    Raises:
        FileNotFoundError: A base is neither a file nor a preset.
        ValueError: A config inherits from itself, or is no YAML of options.
    """
    chain = [path]
    while "base" in (config := read_config(chain[0])):
        try:
            base = find_config(str(config["base"]))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"base in '{chain[0]}': {error}") from error
        if any(base.samefile(known) for known in chain):
            raise ValueError(f"base: '{chain[0]}' inherits from itself, by {config['base']!r}")
        chain.insert(0, base)
    return chain


def read_preset(path: Path) -> dict[str, Any]:
    """A config with what it inherits."""
    merged: dict[str, Any] = {}
    for part in with_bases(path):
        merged = _merge(merged, read_config(part))
    merged.pop("base", None)
    return merged


def _merge(base: Any, own: Any) -> Any:
    """As the parser does: mappings by key, and all else is replaced."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {**base, **{key: _merge(base.get(key), value) for key, value in own.items()}}


def _is_of_a_run(path: Path, config: dict[str, Any]) -> bool:
    """Whether a run wrote a config into its folder, which may have another path by now."""
    run = config.get("run")
    named = run.get("dir") if isinstance(run, dict) else None
    wrote = isinstance(named, str) and re.fullmatch(r"config(-\d+)?\.yaml", path.name) is not None
    beside = [path.with_name(name) for name in ("metrics.csv", "checkpoints", "scores.json")]
    at_home = wrote and Path(str(named)).name == path.resolve().parent.name
    return at_home or (wrote and any(file.exists() for file in beside))


def read_config(path: Path) -> dict[str, Any]:
    """Read a config, YAML with options in it; what they are is the parser's to check.

    Raises:
        ValueError: It is not.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: '{path}' cannot be read as YAML ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"config: '{path}' holds no options; a line of it is like 'model: GAN'")
    return content


def preset_table(words: Sequence[str] = ()) -> str:
    """Text that lists the presets.

    Args:
        words: Only presets with all of them, in any column and any case.

    Raises:
        ValueError: No preset has them.

    Example:
        >>> print(preset_table(["smmd", "cifar"]))
        preset              method   data     paper
        smmdgan/cifar10     SMMDGAN  CIFAR10  Arbel et al., NeurIPS 2018
        smmdgan/sn_cifar10  SMMDGAN  CIFAR10  Arbel et al., NeurIPS 2018
    """
    rows = [_describe(name, path) for name, path in presets().items()]
    chosen = [row for row in rows if all(w.lower() in " ".join(row).lower() for w in words)]
    if not chosen:
        raise ValueError(f"presets: none has {' and '.join(words)}; igm presets lists all")
    table = [("preset", *Preset._fields[1:]), *chosen]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def _describe(name: str, path: Path) -> Preset:
    config = read_preset(path)
    data = config["data"]["class_path"].removesuffix("DataModule")
    papers = [paper for part in with_bases(path) for paper in _PAPER.findall(part.read_text())]
    return Preset(name, config["model"]["class_path"], data, papers[-1])
