"""One correlated Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_igm.data.base import InMemoryDataModule
from lightning_igm.data.sampler import stream_seed


class GaussianDataModule(InMemoryDataModule):
    """Points from one Gaussian, by default the correlated one in the plane.

    The simplest data of Generative Ratio Matching Networks (Srivastava et al., 2020,
    https://openreview.net/forum?id=SJg7spEYDS).

    Args:
        mean: D numbers.
        covariance: D rows of D numbers: a symmetric positive definite matrix.
        count: Training points.
        test_count: Test points, from another draw of the same seed.
        batch_size: Points per batch and process.
        seed: Seed of the points and of the training order.

    Attributes:
        mean: ``(D,)``.
        covariance: ``(D, D)``.

    Raises:
        ValueError: If an argument is out of range, or mean and covariance do not fit.

    Example:
        >>> gaussian = GaussianDataModule(mean=[0, 0], covariance=[[0.25, 0.25], [0.25, 1]])
        >>> gaussian.setup()
        >>> gaussian.train_data.shape
        torch.Size([60000, 2])
    """

    name = "gaussian"

    def __init__(
        self,
        mean: Sequence[float] = (2.0, 2.0),
        covariance: Sequence[Sequence[float]] = ((1.0, 0.81), (0.81, 1.0)),
        count: int = 60_000,
        test_count: int = 10_000,
        batch_size: int = 200,
        seed: int = 1,
    ) -> None:
        super().__init__(batch_size, seed)
        if min(count, test_count) < 1:
            raise ValueError(f"count={count} and test_count={test_count} must be at least 1")
        self.mean = torch.tensor(mean, dtype=torch.float64)
        if not len(mean) or not self.mean.isfinite().all():
            raise ValueError(f"mean={mean} must be one or more finite numbers")
        self._factor = _cholesky(covariance, len(mean))
        self.covariance = torch.tensor(covariance, dtype=torch.float64)
        self.count = count
        self.test_count = test_count
        self.image_shape = (len(mean),)

    def load(self) -> tuple[Tensor, Tensor]:
        """Returns the points."""
        train = self._draw(self.count, stream_seed(self.seed, 0))
        return train, self._draw(self.test_count, stream_seed(self.seed, 1))

    def _draw(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return (noise @ self._factor.T + self.mean).float()


def _cholesky(covariance: Sequence[Sequence[float]], dim: int) -> Tensor:
    if [len(row) for row in covariance] == [dim] * dim:
        matrix = torch.tensor(covariance, dtype=torch.float64)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # The factorisation itself reads the lower triangle alone.
        if torch.equal(matrix, matrix.T) and not failed and factor.isfinite().all():
            return factor
    raise ValueError(
        f"covariance={covariance} must be a symmetric positive definite matrix of {dim} x {dim}"
        " finite numbers, as many as mean has"
    )
