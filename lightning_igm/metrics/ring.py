"""Scores of points on the ring of Gaussians."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from lightning_igm.metrics.modes import ModeReference
from lightning_igm.metrics.score import Score

__all__ = ["RingCoverage"]


class RingCoverage(Score):
    """How points spread over the modes of a ring, and how far they are from its test points.

    Columns are those of :class:`~lightning_igm.metrics.modes.ModeReference`, without spreads.

    Args:
        data: ``(M, D)``, points that training does not see.
        centres: ``(K, D)``.
        unrotated: Turns points ``(N, D)`` so that the modes lie in the plane of the first two
            coordinates; by default they do.
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Example:
        >>> from lightning_igm.data import RingDataModule
        >>> ring = RingDataModule(test_count=1000)
        >>> ring.setup()
        >>> metric = RingCoverage(ring.test_data, ring.centres)
        >>> metric.update(ring.train_data[:1000])
        >>> float(metric.compute()["modes_covered"])
        8.0
    """

    name, order = "ring", 8
    columns: ClassVar = {
        **{"modes_covered": True, "hq": True, "kl_rev": False, "kl_fwd": False},
        **{"mmd2_0.2": False, "mmd2_0.5": False, "mmd2_1": False, "diverged": None},
    }
    headlines = ("modes_covered", "hq", "mmd2_0.2")
    has_spreads = False
    needs = "points"
    compares = False

    def __init__(
        self,
        data: Tensor,
        centres: Tensor,
        unrotated: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._reference = ModeReference(data.float().cpu(), centres.cpu(), unrotated)
        self.hold("fake_points")

    def update(
        self,
        points: Tensor,
        real: bool = False,
        index: Tensor | None = None,
        total: int | None = None,
    ) -> None:
        """Take in generated points ``(N, D)``; see ``Score.keep``."""
        if real:
            return
        size = self._reference.data.shape[1]
        if points.ndim != 2 or points.shape[1] != size:
            raise ValueError(
                f"points: shape {tuple(points.shape)} is not allowed; it must be (N, {size})"
            )
        self.keep("fake_points", points, index, total)

    def scores(self) -> dict[str, float]:
        """All numbers by column."""
        return self._reference.scores(self.rows("fake_points").cpu())
