"""A trained model from its run's folder."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lightning_igm.checkpoints import LAST, read
from lightning_igm.checks import one_of
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.run import CHECKPOINTS

__all__ = ["load"]


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
        ValueError: It cannot be read, or was not made by the command line.
    """
    one_of("weights", weights, ("average", "raw"))
    file = Path(path) / CHECKPOINTS / LAST if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"path: {str(path)!r} is no checkpoint, and no folder of a run")
    content = read(file).content
    class_path = content.get("hyper_parameters", {}).get("_class_path", "")
    if not class_path:
        raise ValueError(
            f"path: {str(path)!r} was not made by igm fit; use load_from_checkpoint of its class"
        )
    # Lightning 2.6 calls jsonargparse >= 4.49 by old names.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    package, _, name = class_path.rpartition(".")
    kind: Any = getattr(import_module(package), name)
    model: ImplicitGenerativeModule = kind.load_from_checkpoint(file, map_location="cpu")
    average = content["callbacks"].get("GeneratorEMA", {}).get("average")
    if weights == "average" and average is not None:
        model.generator.load_state_dict(average)
    return model.eval()
