"""Scores of generated images: one feature extractor feeds every score."""

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

__all__ = [
    "CIFAR10Classifier",
    "DigitClassifier",
    "ImageScores",
    "InceptionV3",
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
    "stacked_modes",
    "to_uint8",
]
