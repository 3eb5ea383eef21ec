"""A trained model from its run's folder."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from lightning_igm.checks import one_of
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.runs.checkpoints import LAST, PREVIOUS, Saved, read
from lightning_igm.runs.folder import CHECKPOINTS

__all__ = ["load"]

_KNOWN = ("lightning_igm", "lightning", "torch", "torchvision")


def load(
    path: str | Path, weights: Literal["average", "raw"] = "average"
) -> ImplicitGenerativeModule:
    """The model of a run that ``igm fit`` made, on the CPU and in eval mode.

    ::

        from lightning_igm import load

        images = load("runs/mine").sample(64)  # (64, C, H, W)

    The checkpoint is read without executing pickled code. A module that was built in Python rather
    than by the command line is loaded by its class's ``load_from_checkpoint``.

    Args:
        path: The run's folder, whose last checkpoint is taken, or a checkpoint.
        weights: ``average`` for the averaged generator if there is one (see
            :class:`~lightning_igm.callbacks.ema.GeneratorEMA`), ``raw`` for the one that trained.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It cannot be read, was not made by the command line or by another version; or a
            class in it is not of this package, and its module not imported yet.
    """
    one_of("weights", weights, ("average", "raw"))
    in_folder = [Path(path) / CHECKPOINTS / name for name in (LAST, PREVIOUS)]
    files = [file for file in (Path(path), *in_folder) if file.is_file()]
    if not files:
        raise FileNotFoundError(f"path: {str(path)!r} is no checkpoint, and no folder of a run")
    file, content = _first_sound(*files)
    class_path = content.get("hyper_parameters", {}).get("_class_path", "")
    if not class_path:
        raise ValueError(
            f"path: {str(path)!r} was not made by igm fit; use load_from_checkpoint of its class"
        )
    # Lightning 2.6 calls jsonargparse >= 4.49 by old names.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    _check_imported(content["hyper_parameters"])
    try:
        kind = getattr(import_module(_module_of(class_path)), class_path.rpartition(".")[2], None)
    except ImportError:
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, ImplicitGenerativeModule)):
        raise ValueError(f"path: {class_path} is not there, or no method of this package")
    if weights == "average" and "callbacks" not in content:
        raise ValueError(
            f"path: {str(file)!r} holds weights only, and not the average there may have been; "
            "weights='raw' takes them as trained"
        )
    average = content.get("callbacks", {}).get("GeneratorEMA", {}).get("average")
    try:
        model = kind.load_from_checkpoint(file, map_location="cpu")
        if weights == "average" and average is not None:
            model.generator.load_state_dict(average)
    except (RuntimeError, TypeError, KeyError, ArgumentError) as error:
        raise ValueError(
            f"path: {str(file)!r} does not fit {class_path}, another version of it perhaps: "
            f"{' '.join(str(error).split())}"
        ) from error
    return model.eval()


def _first_sound(file: Path, *others: Path) -> Saved:
    try:
        return read(file)
    except ValueError as error:
        if not others:
            raise
        rank_zero_warn(f"{error}; '{others[0]}' is taken")
        return _first_sound(*others)


def _check_imported(settings: Any) -> None:
    """Check that no module would be imported because a checkpoint names it."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in ("class_path", "_class_path") and isinstance(value, str):
                _module_of(value)
            _check_imported(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            _check_imported(value)


def _module_of(class_path: str) -> str:
    """The module of a class that a checkpoint names, if it is one of ours or imported already."""
    package, _, _ = class_path.rpartition(".")
    if package.partition(".")[0] not in ("", *_KNOWN) and package not in sys.modules:
        raise ValueError(
            f"path: the checkpoint names {class_path}; import {package} first (igm export: "
            f"--import {package}), nothing is imported because a file says so"
        )
    return package
