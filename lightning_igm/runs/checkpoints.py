"""Checkpoint files: written as a whole, kept for one save longer, and read without running code."""

import sys
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_igm.files import replacing
from lightning_igm.modules.resume import settle_epochs

__all__ = [
    "AtomicCheckpointIO",
    "CheckpointNotWrittenError",
    "Saved",
    "best",
    "check_fits",
    "check_trains",
    "last_good",
    "read",
    "settle_epochs",
]

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_NAMED_KEYS = 4


class CheckpointNotWrittenError(OSError):
    """A checkpoint could not be written; the one before it is as it was."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written atomically, even if the process is killed or the disk is full.

    Lightning's own writes to the system's temporary folder first, and copies from there over the
    last good checkpoint if that is another file system. Beside ``last.ckpt`` the one before it is
    kept, as ``previous.ckpt``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; one that goes to a URL is left to Lightning.

        Raises:
            CheckpointNotWrittenError: It cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        # In memory first: torch's writer turns a full disk into an error about positions.
        content = BytesIO()
        torch.save(checkpoint, content)
        try:
            keep = path.with_name(PREVIOUS) if path.name == LAST else None
            with replacing(path, "wb", keep=keep) as file:
                file.write(content.getbuffer())
        except OSError as error:
            good = "last good checkpoint: " + (str(path) if path.exists() else "none was saved")
            raise CheckpointNotWrittenError(
                f"checkpoint: {str(path)!r} cannot be written ({error.strerror}); {good}"
            ) from error


class Saved(NamedTuple):
    """A checkpoint that was found."""

    path: Path
    content: dict[str, Any]

    def is_finished(self, max_steps: int, max_epochs: int | None) -> bool:
        """Whether a run with these limits ends here; a checkpoint of the end is its very last."""
        loop = settle_epochs(deepcopy({"loops": self.content["loops"]}))["loops"].get("fit_loop")
        epochs = loop["epoch_progress"]["current"]["processed"] if loop else 0
        return 0 <= max_steps <= self.content["global_step"] or (
            max_epochs is not None and 0 <= max_epochs <= epochs
        )


def read(path: Path, *, weights_only: bool = True) -> Saved:
    """Read a checkpoint of Lightning's; tensors are read from the file when they are needed.

    Args:
        path: Of the file.
        weights_only: Whether to refuse what would execute code.

    Raises:
        ValueError: It is none, is not whole, or would execute code.
    """
    content: Any = None
    try:
        if zipfile.is_zipfile(path) and _is_whole(path):
            content = torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)
    except UnpicklingError as error:
        raise ValueError(
            f"ckpt_path: {str(path)!r} is refused; it holds more than tensors and plain data, and "
            "to load it could execute code"
        ) from error
    except Exception:  # Of what is damaged torch makes errors of any kind.
        content = None
    if not isinstance(content, dict) or not {"state_dict", "global_step", "loops"} <= set(content):
        raise ValueError(f"ckpt_path: {str(path)!r} is damaged, or not a checkpoint of a run")
    version = str(content.get("pytorch-lightning_version", "2"))
    if version.partition(".")[0] in ("0", "1"):
        raise ValueError(
            f"ckpt_path: {str(path)!r} was written by Lightning {version}; it must be 2 or later"
        )
    return Saved(path, content)


def _is_whole(path: Path) -> bool:
    """Whether all sums of a file are right; torch does not look at them."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def last_good(
    folder: Path, model: LightningModule, *, weights_only: bool = True, to_train: bool = False
) -> Saved | None:
    """The last checkpoint of a folder that can be read and fits the model; None if there is none.

    Each checkpoint that is skipped is reported in one line.

    Args:
        folder: Of the checkpoints.
        model: What it is to fit.
        weights_only: Whether to refuse what would execute code.
        to_train: Whether it must have the optimizers' state.

    Raises:
        ValueError: There are checkpoints, and none of them is good; says what is wrong with the
            last.
    """
    faults: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        try:
            saved = read(path, weights_only=weights_only) if path.exists() else None
            if saved is not None:
                check_fits(saved, model)
                if to_train:
                    check_trains(saved)
        except ValueError as error:
            faults.append(str(error))
            continue
        if saved is not None:
            if faults or name != LAST:
                reason = *faults, f"ckpt_path: '{folder / LAST}' is not there"
                print(f"igm: {reason[0]}; resuming from '{path}'", file=sys.stderr)
            return saved
    if faults:
        raise ValueError(faults[0])
    return None


def best(folder: Path, *, weights_only: bool = True) -> Saved:
    """The checkpoint of a folder that a ``ModelCheckpoint`` with a monitor kept as the best.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or several scores have one each.
    """
    states: dict[str, Any] = {}
    for name in (PREVIOUS, LAST):
        if (folder / name).exists():
            states = read(folder / name, weights_only=weights_only).content.get("callbacks", {})
    paths = {
        str(state["monitor"]): Path(state["best_model_path"])
        for key, state in states.items()
        if key.startswith("ModelCheckpoint") and state["monitor"] and state["best_model_path"]
    }
    if len(paths) > 1:
        named = ", ".join(f"{monitor}: {path}" for monitor, path in paths.items())
        raise ValueError(f"ckpt_path: 'best' is not allowed, name one of the files ({named})")
    for path in paths.values():
        # The folder may have been moved since.
        for file in (folder / path.name, path):
            if file.is_file():
                return read(file, weights_only=weights_only)
        raise FileNotFoundError(f"ckpt_path: 'best' is not there: {path}")
    raise FileNotFoundError(
        f"ckpt_path: 'best' is not there: no checkpoint in '{folder}' was kept by a score; train "
        "with --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor fid"
    )


def check_trains(saved: Saved) -> None:
    """Check that a run can resume from a checkpoint.

    Raises:
        ValueError: It holds weights only.
    """
    if "optimizer_states" not in saved.content:
        raise ValueError(
            f"ckpt_path: {str(saved.path)!r} holds weights only, from which no run can resume; "
            "take a checkpoint that has the optimizers' state"
        )


def check_fits(saved: Saved, model: LightningModule) -> None:
    """Check that the weights of a checkpoint are those of a model, as far as that is known now.

    Raises:
        ValueError: They are not; names the first tensors that differ.
    """
    if is_overridden("configure_model", model) or not model.strict_loading:
        return
    then, now = _shapes(saved.content["state_dict"]), _shapes(model.state_dict())
    differing = [
        f"{key} ({then.get(key, 'missing')} in the checkpoint, {now.get(key, 'missing')} now)"
        for key in dict.fromkeys([*now, *then])
        if then.get(key) != now.get(key)
    ]
    if differing:
        more = len(differing) - _NAMED_KEYS
        named = ", ".join(differing[:_NAMED_KEYS]) + (f" and {more} more" if more > 0 else "")
        raise ValueError(f"ckpt_path: {str(saved.path)!r} does not fit the model: {named}")


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v.shape) if isinstance(v, Tensor) else None for key, v in state.items()}
