"""Scores of images: an extractor, torchmetrics, and what is kept of the real images."""

from lightning_igm.evaluation.evaluator import Evaluator
from lightning_igm.evaluation.images import RealImages

__all__ = ["Evaluator", "RealImages"]
