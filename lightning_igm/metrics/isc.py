"""The Inception Score of logits."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_igm.checks import positive
from lightning_igm.metrics.inception_score import inception_score
from lightning_igm.metrics.score import Score

__all__ = ["InceptionScore"]


class InceptionScore(Score):
    """Inception Score: its mean and standard deviation over splits.

    "Improved Techniques for Training GANs" (Salimans et al., 2016,
    https://arxiv.org/abs/1606.03498); see :func:`~lightning_igm.metrics.inception_score`. Equal
    seeds give torch-fidelity's numbers.

    Args:
        splits: Number of splits.
        seed: Seed of the shuffling.
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Raises:
        ValueError: ``splits`` is not positive.

    Example:
        >>> import torch
        >>> metric = InceptionScore(splits=1)
        >>> metric.update(20 * torch.eye(10).repeat(50, 1))
        >>> round(float(metric.compute()["inception_score"]), 3)
        10.0
    """

    name, order = "is", 3
    columns: ClassVar = {"inception_score": True}
    needs = "logits"
    compares = False
    higher_is_better = True
    plot_lower_bound = 1.0
    settings: ClassVar = {"splits": "is_splits", "seed": "seed"}

    def __init__(self, splits: int = 10, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.splits, self.seed = positive("splits", splits), seed
        self.hold("fake_logits")

    def update(
        self,
        logits: Tensor,
        real: bool = False,
        index: Tensor | None = None,
        total: int | None = None,
    ) -> None:
        """Take in logits ``(N, K)`` of generated images; see ``Score.keep``."""
        if real:
            return
        if logits.ndim != 2:
            raise ValueError(
                f"logits: shape {tuple(logits.shape)} is not allowed; it must be (N, K)"
            )
        self.keep("fake_logits", logits, index, total)

    def least(self, num_features: int = 0) -> int:
        """One image a split."""
        return self.splits

    def scores(self) -> dict[str, float]:
        """The score and its spread over splits."""
        score, std = inception_score(self.rows("fake_logits"), splits=self.splits, seed=self.seed)
        return {"inception_score": score, "inception_score_std": std}
