"""The modes of Stacked MNIST that samples cover."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.rows import joined
from lightning_igm.metrics.score import Score
from lightning_igm.metrics.stacked_digits import NUM_MODES, coverage_of_counts, stacked_modes

__all__ = ["ModeCoverage"]


class ModeCoverage(Score):
    """Number of the thousand modes of Stacked MNIST that samples hit, and how evenly.

    "VEEGAN" (Srivastava et al., 2017, https://arxiv.org/abs/1705.07761); see
    :func:`~lightning_igm.metrics.mode_coverage`.

    Args:
        classifier: Maps grey images ``(3 N, 1, H, W)`` to features and logits of ten digits; the
            one that ships with this package by default.
        seed: Seed of the redrawn histograms, which give the spreads.
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Example:
        >>> import torch
        >>> metric = ModeCoverage()
        >>> metric.update(torch.zeros(20, 3, 28, 28, dtype=torch.uint8))
        >>> float(metric.compute()["modes"])
        1.0
    """

    name, order = "modes", 6
    columns: ClassVar = {"modes": True, "reverse_kl": False}
    default_on = ("stacked_mnist",)
    needs = "images"
    compares = False
    settings: ClassVar = {"seed": "seed"}
    fake_modes: list[Tensor]
    _classifier: tuple[nn.Module, ...]

    def __init__(self, classifier: nn.Module | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # In a tuple: it is no part of the module that the metric is in, nor of its checkpoints.
        self._classifier = () if classifier is None else (classifier,)
        self.seed = seed
        self.add_state("fake_modes", [], "cat")

    def update(self, images: Tensor, real: bool = False) -> None:
        """Take in generated uint8 images ``(N, 3, H, W)``."""
        if real:
            return
        if not self._classifier:
            self._classifier = (DigitClassifier.pretrained("mnist"),)
        modes = stacked_modes(images, self._classifier[0].to(images.device))
        if not self.fake_modes:
            self.fake_modes.append(modes.new_zeros(1, NUM_MODES))
        self.fake_modes[0] += torch.bincount(modes, minlength=NUM_MODES)

    def least(self, num_features: int = 0) -> int:
        """One."""
        return 1

    def scores(self) -> dict[str, float]:
        """Modes and divergence, each with its standard error."""
        counts = joined(self.fake_modes).sum(0) if self.count("fake_modes") else torch.zeros(1)
        self.check("generated", int(counts.sum()))
        return coverage_of_counts(counts, seed=self.seed)
