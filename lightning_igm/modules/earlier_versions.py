"""Classes and arguments that earlier versions had, in configs and checkpoints."""

import sys
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

__all__ = ["bring_up_to_date", "checkpoint_of_now"]

_AUTOENCODER = "lightning_igm.modules.mmd_gan_autoencoder.AutoencoderMMDGAN"


def bring_up_to_date(kind: type, arguments: dict[str, Any]) -> type:
    """The class that a method with these arguments is of now.

    ``MMDGAN`` with a decoder is ``AutoencoderMMDGAN``; and methods without rounds of critic steps
    had the arguments of rounds, with nothing but their defaults allowed.

    Args:
        kind: The method's class, or what it was then.
        arguments: By name; those that are gone and said nothing are taken out.
    """
    ours = {base.__name__ for base in kind.__mro__ if base.__module__.startswith("lightning_igm.")}
    if "MMDGAN" in ours and "AutoencoderMMDGAN" not in ours:
        if arguments.get("decoder") is not None:
            return _class_of(_AUTOENCODER) if kind.__name__ == "MMDGAN" else kind
        _take_out(arguments, decoder=None, one_sided_weight=0, encoder_clip=None)
        for name in ("autoencoder_weight", "swap_one_sided"):  # Of no use without the others.
            arguments.pop(name, None)
    if "AdversarialModule" in ours and "CriticRounds" not in ours:
        if arguments.get("critic_burst_steps") is None:
            for name in ("critic_burst_steps", "critic_burst_start", "critic_burst_interval"):
                arguments.pop(name, None)
        if "GRAMNet" in ours:
            _take_out(arguments, critic_steps=1)
    return kind


def _take_out(arguments: dict[str, Any], **values: Any) -> None:
    for name, value in values.items():
        if name in arguments and arguments[name] == value:
            del arguments[name]


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def checkpoint_of_now(cls: Any, path: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    """A checkpoint whose hyper-parameters are those of now, and the class to load it by.

    Args:
        cls: Whose ``load_from_checkpoint`` is called.
        path: As it takes it; only a local file is looked into.
        given: What it is given beside, which wins.
    """
    try:
        if not isinstance(path, str | Path) or not Path(path).is_file():
            return cls, path
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        settings = dict(content["hyper_parameters"])
    except Exception:  # Lightning tells what is wrong with it.
        return cls, path
    module, _, name = str(settings.get("_class_path", "")).rpartition(".")
    kind = getattr(sys.modules.get(module), name, cls)  # Nothing is imported for a file's sake.
    arguments = settings | given
    new = bring_up_to_date(kind, arguments)
    kept = {key: value for key, value in settings.items() if key in arguments}
    if new is kind and kept == settings:
        return cls, path
    if name:
        kept["_class_path"] = f"{new.__module__}.{new.__name__}"
    buffer = BytesIO()
    torch.save({**content, "hyper_parameters": kept}, buffer)
    buffer.seek(0)
    return (new if issubclass(new, cls) else cls), buffer
