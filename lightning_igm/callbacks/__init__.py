"""Callbacks: sample grids, averages, scores, learning rates, checkpoints."""

from lightning_igm.callbacks.checkpoint import GeneratorCheckpoint
from lightning_igm.callbacks.critic_spectrum import CriticSpectrum
from lightning_igm.callbacks.ema import GeneratorEMA
from lightning_igm.callbacks.exact_resume import ExactResume
from lightning_igm.callbacks.films import Films
from lightning_igm.callbacks.image_metrics import ImageMetrics
from lightning_igm.callbacks.kid_learning_rate import KIDLearningRate
from lightning_igm.callbacks.predictions import PredictionWriter
from lightning_igm.callbacks.progress import GeneratorProgressBar
from lightning_igm.callbacks.ring_scores import RingScores
from lightning_igm.callbacks.sample_grid import SampleGrid

__all__ = [
    "CriticSpectrum",
    "ExactResume",
    "Films",
    "GeneratorCheckpoint",
    "GeneratorEMA",
    "GeneratorProgressBar",
    "ImageMetrics",
    "KIDLearningRate",
    "PredictionWriter",
    "RingScores",
    "SampleGrid",
]
