"""All methods and their presets: tests that are of every method find new ones by these."""

import inspect
from pathlib import Path
from typing import Any

from lightning_igm import modules
from lightning_igm.cli.presets import read_preset

CONFIGS = Path(__file__).parents[1] / "configs"


def concrete_methods() -> dict[str, type]:
    """Exported methods by name, without their base classes."""
    exported = {name: getattr(modules, name) for name in modules.__all__}
    return {
        name: kind
        for name, kind in exported.items()
        if issubclass(kind, modules.ImplicitGenerativeModule) and not inspect.isabstract(kind)
    }


def presets_on_digits() -> dict[str, Path]:
    """Files of presets on the digits, by name."""
    files = sorted(CONFIGS.glob("*/*digits*.yaml"))
    return {f"{path.parent.name}/{path.stem}": path for path in files}


def settings_of(path: Path) -> dict[str, Any]:
    """Arguments of a preset's model, and its class as ``class_path``."""
    model = read_preset(path)["model"]
    return {"class_path": model["class_path"]} | model["init_args"]


def settings_on_digits(method: str) -> dict[str, Any]:
    """Those of a method's first preset on the digits."""
    of_all = [settings_of(path) for path in presets_on_digits().values()]
    return next(each for each in of_all if each.pop("class_path") == method)
