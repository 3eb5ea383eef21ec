"""The Inception-v3 network that Inception Score, FID and KID are defined by."""

import io
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from torch import Tensor, nn

from lightning_igm.metrics.extractors import load_state
from lightning_igm.metrics.rng import isolated_rng

__all__ = ["InceptionV3"]

_HASH = "6726825d"
_NAME = f"weights-inception-2015-12-05-{_HASH}.pth"
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_NAME}"


class InceptionV3(nn.Module):
    """torch-fidelity's Inception-v3 of 2015, with its resize: 2048 features and 1008 logits.

    "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al., 2015,
    https://arxiv.org/abs/1512.00567) with the weights that "Improved Techniques for Training GANs"
    (Salimans et al., 2016, https://arxiv.org/abs/1606.03498) scores with. One pass gives the
    features of FID and KID and the logits, without bias, of the Inception Score. Grey images are
    repeated to three channels.

    Nothing is loaded before :meth:`prepare`, or the first images.

    Args:
        weights: File of the weights; without one, torch-fidelity's is downloaded once, into
            ``checkpoints`` of ``torch.hub.get_dir()``.
        sha256: The beginning of the file's SHA-256, that of torch-fidelity's file by default; None
            for weights of one's own.

    Raises:
        ValueError: ``sha256`` is not the beginning of a hash.

    Example:
        >>> extractor = InceptionV3("weights-inception.pth")
        >>> extractor.num_features
        2048
    """

    num_features = 2048

    def __init__(self, weights: str | Path | None = None, sha256: str | None = _HASH) -> None:
        super().__init__()
        if sha256 is not None and (not sha256 or set(sha256.lower()) - set("0123456789abcdef")):
            raise ValueError(
                f"sha256: {sha256!r} is not allowed; it must be hexadecimal digits that the file's "
                "SHA-256 begins with, or null"
            )
        self.weights = None if weights is None else Path(weights)
        self.sha256 = sha256
        self.network: nn.Module | None = None

    def prepare(self) -> None:
        """Find or download the weights, check them, and build the network; draws no random number.

        Raises:
            ValueError: The file is damaged, of another network, or holds more than weights.
            OSError: It is missing and cannot be downloaded.
        """
        if self.network is not None:
            return
        path = self.weights if self.weights is not None else _downloaded()
        advice = (
            f"put {_URL} there, or give weights of your own with sha256 null"
            if self.sha256 is not None
            else f"it must have the layout of {_URL}"
        )
        state = load_state(path, self.sha256, advice)
        try:
            self.network = _network(state)
        except RuntimeError as error:
            raise ValueError(
                f"weights: {str(path)!r} is of another network than Inception-v3; {advice}"
            ) from error

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and logits.

        Args:
            images: uint8 ``(N, C, H, W)`` with 1 or 3 channels, of any size.

        Returns:
            Features ``(N, 2048)`` and logits ``(N, 1008)``.

        Raises:
            ValueError: If ``images`` have another shape or type.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
            raise ValueError(
                f"images: {images.dtype} {tuple(images.shape)} is not allowed; they must be uint8 "
                "(N, C, H, W) with C 1 or 3"
            )
        self.prepare()
        network = cast(nn.Module, self.network).to(images.device)
        features, logits = network(images.expand(-1, 3, -1, -1))
        return features, logits


def _network(state: dict[str, Any]) -> nn.Module:
    """Build torch-fidelity's extractor without its own loading, which would execute a pickle."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    # Importing torch-fidelity changes the warning filters, building draws initial weights.
    with warnings.catch_warnings(), isolated_rng():
        from torch_fidelity import FeatureExtractorInceptionV3

        network: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=file
        )
    return network


def _downloaded() -> Path:
    """The file in torch.hub's folder, where torch-fidelity keeps it too."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / _NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                torch.hub.download_url_to_file(_URL, str(path), hash_prefix=_HASH)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"weights: {_URL} cannot be downloaded to {path} ({error}); put the file there, or "
            "name another place by weights"
        ) from error
    return path
