"""Scores of generated images: one feature extractor feeds every score."""

from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.frechet import frechet_distance
from lightning_igm.metrics.images import to_uint8
from lightning_igm.metrics.ms_ssim import ms_ssim
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.metrics.scores import ImageScores, image_scores

__all__ = [
    "DigitClassifier",
    "ImageScores",
    "frechet_distance",
    "image_scores",
    "isolated_rng",
    "ms_ssim",
    "to_uint8",
]
