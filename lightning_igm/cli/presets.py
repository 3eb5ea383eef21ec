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
    "preset_table",
    "presets",
    "with_config_files",
]

_YAML = re.compile(r"[:{\n]")  # A config can be given as YAML itself.
_PAPERS = {
    "CramerGAN": "Bellemare et al., 2017",
    "DriftingModel": "Deng et al., 2026",
    "FeatureMatching": "dos Santos et al., ICCV 2019",
    "GAN": "Goodfellow et al., 2014",
    "GCMMDGAN": "Arbel et al., NeurIPS 2018",
    "GRAMNet": "Srivastava et al., ICLR 2020",
    "MMDGAN": "Bińkowski et al., ICLR 2018",
    "MMDGAN(decoder)": "Li et al., NIPS 2017",
    "MMDGAN(spectral)": "Arbel et al., NeurIPS 2018",
    "MMDNet": "Li et al., ICML 2015",
    "MoLM": "Ravuri et al., NIPS workshop 2017",
    "MoLM(hidden_weight)": "Ravuri et al., ICML 2018",
    "R3GAN": "Huang et al., NeurIPS 2024",
    "RepulsiveMMDGAN": "Wang et al., ICLR 2019",
    "SMMDGAN": "Arbel et al., NeurIPS 2018",
    "SNGAN": "Miyato et al., ICLR 2018",
    "SobolevGAN": "Mroueh et al., ICLR 2018",
    "SWGAN": "Arbel et al., NeurIPS 2018",
    "WGANGP": "Gulrajani et al., NeurIPS 2017",
}


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
    configs = [c if _YAML.search(c) else str(find_config(c)) for c in found.config]
    files = {Path(c): _read_config(Path(c)) for c in configs if not _YAML.search(c)}
    commands = 0 if not line or line[0].startswith("-") else 1
    folders = [f"--run.dir={file.parent}" for file in files if _is_of_a_run(file, files[file])]
    line[commands:commands] = [*(f"--config={config}" for config in configs), *folders]
    return line, list(files)


def _is_of_a_run(path: Path, config: dict[str, Any]) -> bool:
    """Whether a run wrote a config into its folder, which may have another path by now."""
    run = config.get("run")
    named = run.get("dir") if isinstance(run, dict) else None
    wrote = isinstance(named, str) and re.fullmatch(r"config(-\d+)?\.yaml", path.name) is not None
    beside = [path.with_name(name) for name in ("metrics.csv", "checkpoints", "scores.json")]
    at_home = wrote and Path(str(named)).name == path.resolve().parent.name
    return at_home or (wrote and any(file.exists() for file in beside))


def _read_config(path: Path) -> dict[str, Any]:
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
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    method, settings = config["model"]["class_path"], config["model"]["init_args"]
    arguments = [*settings, *settings.get("critic", {}).get("init_args", {})]
    variants = [f"{method}({argument})" for argument in arguments]
    paper = next((_PAPERS[v] for v in variants if v in _PAPERS), _PAPERS.get(method, ""))
    data = config["data"]["class_path"].removesuffix("DataModule")
    return Preset(name, method, data, paper)
