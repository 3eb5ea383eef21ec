"""Eight Gaussians on a circle, in the plane or tilted in space."""

from __future__ import annotations

from math import cos, pi, sin

import torch
from torch import Tensor

from lightning_igm.data.base import InMemoryDataModule
from lightning_igm.data.sampler import stream_seed

_MODES = 8
_RADIUS = 2.0
_STD = (0.2, 0.2, 0.1)  # The third is that out of the plane of the circle.
_TILT = pi / 3


class RingDataModule(InMemoryDataModule):
    """Points from a mixture of eight Gaussians of standard deviation 0.2 on a circle of radius 2.

    The data of the stability study of Generative Ratio Matching Networks (Srivastava et al., 2020,
    https://openreview.net/forum?id=SJg7spEYDS). In three dimensions the third coordinate is
    N(0, 0.1²), and the whole is rotated about the second axis by π / 3.

    Args:
        dim: Dimensions of a point: 2 or 3.
        count: Training points.
        test_count: Test points, from another draw of the same seed.
        batch_size: Points per batch and process.
        seed: Seed of the points and of the training order.

    Attributes:
        centres: Means of the Gaussians, ``(8, dim)``, counterclockwise from (0, -2) in the plane of
            the circle; ``train_labels`` and ``test_labels``, int64 ``(N,)``, are their numbers.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ring = RingDataModule(dim=2)
        >>> ring.setup()
        >>> ring.train_data.shape, ring.centres[2]
        (torch.Size([60000, 2]), tensor([2., 0.]))
    """

    name = "ring"
    num_classes = _MODES

    def __init__(
        self,
        dim: int = 2,
        count: int = 60_000,
        test_count: int = 10_000,
        batch_size: int = 200,
        seed: int = 1,
    ) -> None:
        super().__init__(batch_size, seed)
        if dim not in (2, 3):
            raise ValueError(f"dim={dim} must be 2 or 3")
        if min(count, test_count) < 1:
            raise ValueError(f"count={count} and test_count={test_count} must be at least 1")
        self.count = count
        self.test_count = test_count
        self.image_shape = (dim,)
        self._rotation = _rotation() if dim == 3 else torch.eye(2, dtype=torch.float64)
        angles = torch.arange(_MODES, dtype=torch.float64) * (2 * pi / _MODES) - pi / 2
        circle = _RADIUS * torch.stack([angles.cos(), angles.sin(), angles * 0], dim=1)[:, :dim]
        self.centres = self._rotated(circle).float()

    def load(self) -> tuple[Tensor, Tensor]:
        """Returns the points; sets ``train_labels`` and ``test_labels``, int64 ``(N,)``."""
        train, self.train_labels = self._draw(self.count, stream_seed(self.seed, 0))
        test, self.test_labels = self._draw(self.test_count, stream_seed(self.seed, 1))
        return train, test

    def unrotated(self, points: Tensor) -> Tensor:
        """Undoes the rotation of the three-dimensional ring; points of the plane stay as they are.

        Args:
            points: ``(N, dim)``.

        Returns:
            ``(N, dim)``: the circle lies in the first two coordinates, around the origin.
        """
        return points @ self._rotation.to(points)

    def _draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        modes = torch.randint(_MODES, (count,), generator=generator)
        noise = torch.randn(count, *self.image_shape, generator=generator)
        noise *= torch.tensor(_STD[: self.image_shape[0]])
        return self._rotated(noise).add_(self.centres[modes]), modes

    def _rotated(self, points: Tensor) -> Tensor:
        return points @ self._rotation.T.to(points)


def _rotation() -> Tensor:
    c, s = cos(_TILT), sin(_TILT)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
