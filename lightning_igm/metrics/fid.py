"""FID: the Fréchet distance of features."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_igm.metrics.frechet import check_count, frechet_error
from lightning_igm.metrics.rows import joined
from lightning_igm.metrics.score import Score

__all__ = ["FrechetDistance"]


class FrechetDistance(Score):
    """Fréchet distance between Gaussians fitted to features, and its standard error.

    "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (Heusel et
    al., 2017, https://arxiv.org/abs/1706.08500). Sums are float64, over all features; the error
    (see :func:`~lightning_igm.metrics.frechet_error`) is of at most 50,000 generated ones. It
    depends on the number of images: compare distances of equal numbers only.

    Args:
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Example:
        >>> import torch
        >>> metric = FrechetDistance()
        >>> features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> metric.update(features, real=True)
        >>> metric.update(features + 1, real=False)
        >>> round(float(metric.compute()["fid"]), 4)
        4.0
    """

    name, order = "fid", 1
    columns: ClassVar = {"fid": False}
    default_on = ("*",)
    needs = "features"
    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hold("fake_features")
        for kind in ("real", "fake"):
            # A process's sums are one row each: those of all processes are gathered, then added.
            for part in ("count", "sum", "outer"):
                self.add_state(f"{kind}_{part}", [], "cat")

    def update(
        self, features: Tensor, real: bool, index: Tensor | None = None, total: int | None = None
    ) -> None:
        """Take in features ``(N, D)``; see :meth:`~lightning_igm.metrics.score.Score.keep`."""
        kind = "real" if real else "fake"
        held = getattr(self, f"{kind}_sum")
        size = held[0].shape[1] if held else "D"
        if features.ndim != 2 or size not in ("D", features.shape[1]):
            raise ValueError(
                f"features: shape {tuple(features.shape)} is not allowed; it must be (N, {size})"
            )
        if not real:
            self.keep("fake_features", features, index, total)
        x = features.detach().double()
        if not held:
            count, size = x.new_zeros(1, dtype=torch.long), x.shape[1]
            parts = count, x.new_zeros(1, size), x.new_zeros(1, size, size)
            for part, value in zip(("count", "sum", "outer"), parts, strict=True):
                getattr(self, f"{kind}_{part}").append(value)
        getattr(self, f"{kind}_count")[0] += len(x)
        held[0] += x.sum(0)
        getattr(self, f"{kind}_outer")[0][0].addmm_(x.mT, x)

    def least(self, num_features: int = 0) -> int:
        """One more than there are features: a covariance would be singular."""
        return num_features + 1

    def check(self, kind: str, count: int, num_features: int = 0) -> None:
        """Refuse so few samples that a covariance would be singular."""
        check_count(kind, count, num_features)

    def scores(self) -> dict[str, float]:
        """The distance and its standard error."""
        mean1, cov1 = self._moments("real")
        mean2, cov2 = self._moments("fake")
        distance, error = frechet_error(mean1, cov1, mean2, cov2, self.rows("fake_features"))
        return {"fid": float(distance), "fid_std": float(error)}

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        """Mean and covariance from the sums of all processes."""
        word = {"real": "real", "fake": "generated"}[kind]
        if not self.count(f"{kind}_count"):
            raise ValueError(f"FrechetDistance: there are no {word} features; update with some")
        count, total, outer = (
            joined(getattr(self, f"{kind}_{part}")).sum(0).to(self.device)
            for part in ("count", "sum", "outer")
        )
        number = int(count)
        self.check(word, number, len(total))
        mean = total / number
        return mean, outer.addr_(mean, mean, alpha=-number).div_(number - 1)
