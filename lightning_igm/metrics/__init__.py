"""Scores of generated images: functions, and classes that are torchmetrics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_igm.metrics.cifar10_classifier import CIFAR10Classifier
from lightning_igm.metrics.colors import color_divergence, main_colors
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.diversity import mean_similarity
from lightning_igm.metrics.frechet import frechet_distance, frechet_error
from lightning_igm.metrics.images import to_uint8
from lightning_igm.metrics.inception import InceptionV3
from lightning_igm.metrics.inception_score import inception_score
from lightning_igm.metrics.kernel_distance import kernel_distance
from lightning_igm.metrics.ms_ssim import ms_ssim
from lightning_igm.metrics.precision_recall import precision_recall
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.metrics.scores import ImageScores, image_scores
from lightning_igm.metrics.stacked_digits import mode_coverage, stacked_modes

if TYPE_CHECKING:
    from lightning_igm.metrics.color_js import ColorDivergence
    from lightning_igm.metrics.coverage import ModeCoverage
    from lightning_igm.metrics.fid import FrechetDistance
    from lightning_igm.metrics.isc import InceptionScore
    from lightning_igm.metrics.kid import KernelDistance
    from lightning_igm.metrics.prc import PrecisionRecall
    from lightning_igm.metrics.ring import RingCoverage
    from lightning_igm.metrics.score import Score, score_classes
    from lightning_igm.metrics.ssim import MultiScaleSSIM

__all__ = [
    "CIFAR10Classifier",
    "ColorDivergence",
    "DigitClassifier",
    "FrechetDistance",
    "ImageScores",
    "InceptionScore",
    "InceptionV3",
    "KernelDistance",
    "ModeCoverage",
    "MultiScaleSSIM",
    "PrecisionRecall",
    "RingCoverage",
    "Score",
    "color_divergence",
    "frechet_distance",
    "frechet_error",
    "image_scores",
    "inception_score",
    "isolated_rng",
    "kernel_distance",
    "main_colors",
    "mean_similarity",
    "mode_coverage",
    "ms_ssim",
    "precision_recall",
    "score_classes",
    "stacked_modes",
    "to_uint8",
]

# Functions are there at once; torchmetrics takes seconds to import, and classes wait for their use.
_LATER = {
    "ColorDivergence": "color_js",
    "FrechetDistance": "fid",
    "InceptionScore": "isc",
    "KernelDistance": "kid",
    "ModeCoverage": "coverage",
    "MultiScaleSSIM": "ssim",
    "PrecisionRecall": "prc",
    "RingCoverage": "ring",
    "Score": "score",
    "score_classes": "score",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
