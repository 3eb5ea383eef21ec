"""Statistics of real images on disk, made once for all runs."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

__all__ = ["StatisticsCache"]

_PATIENCE = 900  # Seconds to wait for another process that computes the same.


class StatisticsCache:
    """A file for each key; a folder that cannot be used is said once and done without.

    A file gets its name only when it is complete; it is loaded without executing anything, and made
    anew if it is damaged.

    Args:
        folder: Where the files are; made if it is missing.
        key: All that the tensors depend on, as JSON can hold it.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = StatisticsCache(folder, {"data": "digits", "extractor": "LeNet"})
        ...     cache.save({"real_features": torch.ones(2, 3)})
        ...     cache.load()["real_features"].shape
        torch.Size([2, 3])
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any]) -> None:
        self.about = json.dumps(key, sort_keys=True)
        digest = hashlib.sha256(self.about.encode()).hexdigest()[:12]
        self.path = Path(folder) / f"{key.get('data', 'images')}-{digest}.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Run the body while no other process makes the file, or after a quarter of an hour."""
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            rank_zero_info(f"metrics: another process still makes {self.path}; not waiting for it")
        except (OSError, NotImplementedError):
            pass  # Nothing can be written there either, and saving says so.
        try:
            yield
        finally:
            lock.release()

    def load(self) -> dict[str, Tensor] | None:
        """Return the tensors by name, or None if there are none that are sound."""
        try:
            if not self.path.is_file():
                return None
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            tensors: dict[str, Tensor] = content["tensors"]
            if content["about"] != self.about or content["digest"] != _digest(tensors):
                raise ValueError("its content has changed")
            return tensors
        except Exception as error:  # Damage shows as almost any error.
            reason = " ".join(str(error).split())[:80]
            rank_zero_info(f"metrics: {self.path} is damaged and made anew ({reason})")
            return None

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors, or say why that cannot be done."""
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        content = {"about": self.about, "digest": _digest(tensors), "tensors": tensors}
        unfinished = self.path.with_suffix(f".{secrets.token_hex(4)}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, unfinished)
            os.replace(unfinished, self.path)
        except (OSError, RuntimeError) as error:
            rank_zero_info(
                f"metrics: statistics of the real images are not kept; {self.path} cannot be "
                f"written ({error})"
            )
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
