"""Precision and recall of samples among the data."""

import math
from typing import Any, ClassVar

from lightning_igm.checks import positive
from lightning_igm.metrics.precision_recall import precision_recall
from lightning_igm.metrics.score import FeatureScore

__all__ = ["PrecisionRecall"]


class PrecisionRecall(FeatureScore):
    """Share of samples inside the data's manifold, and of the data inside the samples'.

    "Improved Precision and Recall Metric for Assessing Generative Models" (Kynkäänniemi et al.,
    2019, https://arxiv.org/abs/1904.06991); see :func:`~lightning_igm.metrics.precision_recall`.
    Spreads are standard errors of shares.

    Args:
        neighbors: The k.
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Raises:
        ValueError: ``neighbors`` is not positive.

    Example:
        >>> import torch
        >>> metric = PrecisionRecall()
        >>> points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> metric.update(points, real=True)
        >>> metric.update(points[:1] + 0.01 * points, real=False)
        >>> float(metric.compute()["recall"])
        0.02
    """

    name, order = "precision_recall", 5
    columns: ClassVar = {"precision": True, "recall": True}
    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    settings: ClassVar = {"neighbors": "neighbors"}

    def __init__(self, neighbors: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.neighbors = positive("neighbors", neighbors)

    def least(self, num_features: int = 0) -> int:
        """One more than there are neighbours of each."""
        return self.neighbors + 1

    def scores(self) -> dict[str, float]:
        """Both shares and their standard errors."""
        real, fake = self.rows("real_features"), self.rows("fake_features")
        shares = precision_recall(real, fake, neighbors=self.neighbors, device=self.device)
        made = {}
        for name, share, points in zip(self.columns, shares, (fake, real), strict=True):
            made[name] = share
            made[f"{name}_std"] = math.sqrt(share * (1 - share) / len(points))
        return made
