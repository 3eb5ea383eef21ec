"""Feature extractors: images in, features and perhaps logits out.

An extractor is any module that maps uint8 images ``(N, C, H, W)`` to features ``(N, D)``, or to a
tuple of features and logits ``(N, K)``. It may have ``num_features``, its D, and ``prepare()``,
which loads what is not loaded yet.
"""

import hashlib
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["extract", "identity", "load_state", "prepare"]


def prepare(extractor: nn.Module) -> None:
    """Let an extractor load what it has not loaded yet, if it knows how to.

    Raises:
        ValueError: A file of weights is not what it should be.
        OSError: It is missing and cannot be downloaded.
    """
    load = getattr(extractor, "prepare", None)
    if callable(load):
        load()


def extract(extractor: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run an extractor once, in float32 and eval mode.

    Args:
        extractor: Maps uint8 images to features, or to a tuple that begins with them.
        images: uint8 ``(N, C, H, W)``.

    Returns:
        Float32 features ``(N, D)``, and logits ``(N, K)``, or None of an extractor without.

    Example:
        >>> import torch
        >>> from lightning_igm.metrics import DigitClassifier
        >>> images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        >>> features, logits = extract(DigitClassifier.pretrained(), images)
        >>> features.shape, logits.shape
        (torch.Size([2, 64]), torch.Size([2, 10]))
    """
    output = extractor.to(device=images.device, dtype=torch.float32).eval()(images)
    if not isinstance(output, tuple):
        return output.float(), None
    logits = output[1] if len(output) > 1 else None
    return output[0].float(), None if logits is None else logits.float()


def identity(extractor: nn.Module) -> str:
    """Name an extractor by its class, its structure and its weights.

    Example:
        >>> from lightning_igm.metrics import DigitClassifier
        >>> identity(DigitClassifier.pretrained()).rpartition("-")[0]
        'DigitClassifier'
    """
    kind = type(extractor)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {extractor!r}".encode())
    for name, tensor in extractor.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{kind.__name__}-{digest.hexdigest()[:12]}"


def load_state(path: Path, sha256: str | None, advice: str) -> dict[str, Any]:
    """Read a file of weights without executing anything in it.

    Args:
        path: The file.
        sha256: The beginning of its SHA-256, in hexadecimal digits; None to take any file.
        advice: What to do about a file that is not right; ends the message.

    Raises:
        ValueError: It has another hash, is damaged, or holds something else.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: {str(path)!r} is not a file; {advice}")
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(sha256.lower()):
            raise ValueError(
                f"weights: {str(path)!r} is damaged or another file (its SHA-256 begins with "
                f"{found[: max(8, len(sha256))]}, not {sha256}); {advice}"
            )
    try:
        with warnings.catch_warnings():
            # Of what a file that is no file of weights is like: the message says it.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"weights: {str(path)!r} holds more than tensors, and nothing of it was executed; "
            f"{advice}"
        ) from error
    except Exception as error:  # Damage shows as almost any error.
        raise ValueError(f"weights: {str(path)!r} is damaged; {advice}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights: {str(path)!r} holds no weights by name; {advice}")
    return dict(state)
