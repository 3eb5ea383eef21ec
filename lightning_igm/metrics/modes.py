"""Scores of points against a mixture with known modes: the ring of eight Gaussians."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_igm.checks import above_zero

__all__ = [
    "ModeReference",
    "ModeScores",
    "mean_kernel",
    "mode_columns",
    "mode_scores",
    "unbiased_mmd2",
]

_SDS = 3.0
_WITHIN_SDS = 1 - math.exp(-(_SDS**2) / 2)  # Of a Gaussian in the plane.
_COVERED = 0.2
_LIMIT = 3.0
_PAIRS_AT_ONCE = 2**17
_LEAST_EXPONENT = -80.0  # Processors take sixty times as long over results that underflow.


class ModeScores(NamedTuple):
    """How samples spread over K modes.

    Attributes:
        modes_covered: Modes that have at least a fifth of the share of samples within three
            standard deviations that they have under the data.
        hq: Share of samples within three standard deviations of a mode.
        kl_rev: KL of the histogram of nearest modes from the uniform one, ``sum h log(K h)``; at
            most log K.
        kl_fwd: KL of the uniform histogram from it, ``sum log(1 / (K h)) / K``, h at least 1e-12.
    """

    modes_covered: int
    hq: float
    kl_rev: float
    kl_fwd: float


def mode_scores(
    samples: Tensor, centres: Tensor, *, sd: float = 0.2, height_sd: float = 0.1
) -> ModeScores:
    """Score samples against K isotropic Gaussians in the plane.

    Args:
        samples: ``(N, 2)``, or ``(N, 3)`` with the third coordinate perpendicular to the plane of
            the modes; ``hq`` then asks for a height within three standard deviations as well. What
            is not finite is near no mode, and makes both KL NaN.
        centres: ``(K, 2)`` or ``(K, 3)``, of which two are looked at.
        sd: Standard deviation of every mode.
        height_sd: That of the third coordinate.

    Raises:
        ValueError: A shape or a standard deviation does not fit.

    Example:
        >>> centres = torch.tensor([[0.0, 2.0], [0.0, -2.0]])
        >>> mode_scores(torch.tensor([[0.0, 1.9], [0.1, 2.0]]), centres).modes_covered
        1
    """
    _check("samples", samples)
    _check("centres", centres)
    above_zero("sd", sd), above_zero("height_sd", height_sd)
    points = samples.double()
    finite = points.isfinite().all(1)
    offsets = points[:, None, :2] - centres[None, :, :2].to(points)
    distance, nearest = offsets.square().sum(2).sqrt().min(1)
    near = finite & (distance < _SDS * sd)
    modes = len(centres)
    counts = torch.bincount(nearest[near], minlength=modes).double()
    covered = counts / len(points) >= _COVERED * _WITHIN_SDS / modes
    if points.shape[1] == 3:
        near = near & (points[:, 2].abs() < _SDS * height_sd)
    hq = float(near.double().mean())
    if not finite.all():
        return ModeScores(int(covered.sum()), hq, math.nan, math.nan)
    shares = torch.bincount(nearest, minlength=modes).double() / len(points)
    kl_rev = torch.special.xlogy(shares, modes * shares).sum()
    kl_fwd = -(modes * shares.clamp_min(1e-12)).log().mean()
    return ModeScores(int(covered.sum()), hq, float(kl_rev), float(kl_fwd))


def mean_kernel(points: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Mean Gaussian kernel of all pairs of different points, ``(L,)``, float64.

    Args:
        points: ``(N, D)``, N at least 2.
        bandwidths: L standard deviations.
    """
    count = len(points)
    # What a point has with itself is exactly 1.
    return (_kernel_sums(points, points, bandwidths) - count) / (count * (count - 1))


def unbiased_mmd2(
    samples: Tensor, data: Tensor, bandwidths: Sequence[float], *, within: Tensor | None = None
) -> Tensor:
    """Unbiased squared MMD by Gaussian kernels, in chunks: samples may be many.

    The estimator of Lemma 6 of "A Kernel Two-Sample Test" (Gretton et al., 2012,
    https://jmlr.org/papers/v13/gretton12a.html); it may be negative.

    Args:
        samples: ``(N, D)``, N at least 2.
        data: ``(M, D)``, M at least 2.
        bandwidths: L standard deviations h of ``exp(-||a - b||^2 / (2 h^2))``.
        within: :func:`mean_kernel` of the data, if it is known.

    Returns:
        ``(L,)``, float64.

    Raises:
        ValueError: A shape or a bandwidth does not fit.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        >>> unbiased_mmd2(points, points + 9, [1.0]).round(decimals=4)
        tensor([1.2131], dtype=torch.float64)
    """
    for name, points in (("samples", samples), ("data", data)):
        if points.ndim != 2 or len(points) < 2 or points.shape[1] != data.shape[1]:
            raise ValueError(
                f"{name}: shape {tuple(points.shape)} is not allowed; samples and data must be "
                "(N, D) and (M, D), of 2 points or more"
            )
    for bandwidth in bandwidths:
        above_zero("bandwidths", bandwidth)
    if within is None:
        within = mean_kernel(data, bandwidths)
    between = _kernel_sums(samples, data, bandwidths) / (len(samples) * len(data))
    return mean_kernel(samples, bandwidths) + within - 2 * between


def _kernel_sums(a: Tensor, b: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Sums of the kernels over all pairs, ``(L,)``, in float64; of the direct differences."""
    total = torch.zeros(len(bandwidths), dtype=torch.float64, device=a.device)
    columns = b.T.contiguous()
    chunks = a.split(max(1, _PAIRS_AT_ONCE // len(b)))
    # Three arrays that stay in the processor's cache, whatever the number of points.
    squares, differences, values = (a.new_empty(len(chunks[0]), len(b)) for _ in range(3))
    for rows in chunks:
        squares, differences, values = (x[: len(rows)] for x in (squares, differences, values))
        squares.zero_()
        for coordinate, others in zip(rows.T, columns, strict=True):
            torch.sub(coordinate[:, None], others, out=differences)
            squares.addcmul_(differences, differences)
        for number, bandwidth in enumerate(bandwidths):
            torch.mul(squares, -0.5 / bandwidth**2, out=values).clamp_min_(_LEAST_EXPONENT).exp_()
            total[number] += values.sum().double()
    return total


BANDWIDTHS = (0.2, 0.5, 1.0)


def mode_columns(bandwidths: Sequence[float] = BANDWIDTHS) -> list[str]:
    """Names of the numbers that :meth:`ModeReference.scores` gives.

    Example:
        >>> mode_columns([0.5])[-2:]
        ['mmd2_0.5', 'diverged']
    """
    return [*ModeScores._fields, *(f"mmd2_{h:g}" for h in bandwidths), "diverged"]


class ModeReference:
    """A reference that samples of a ring are scored against, with the data's share done once.

    Args:
        data: ``(M, D)``, points that training does not see.
        centres: ``(K, D)``.
        unrotated: Turns points ``(N, D)`` so that the modes lie in the plane of the first two
            coordinates; by default they do.
        bandwidths: Of the MMD.

    Example:
        >>> from lightning_igm.data import RingDataModule
        >>> ring = RingDataModule(dim=3, test_count=1000)
        >>> ring.setup()
        >>> reference = ModeReference(ring.test_data, ring.centres, ring.unrotated)
        >>> scores = reference.scores(ring.train_data[:1000])
        >>> scores["modes_covered"], scores["diverged"]
        (8.0, 0.0)
    """

    def __init__(
        self,
        data: Tensor,
        centres: Tensor,
        unrotated: Callable[[Tensor], Tensor] | None = None,
        bandwidths: Sequence[float] = BANDWIDTHS,
    ) -> None:
        self.data, self.bandwidths, self._unrotated = data, tuple(bandwidths), unrotated
        self._centres = centres if unrotated is None else unrotated(centres)
        self._within = mean_kernel(data, self.bandwidths)

    @property
    def names(self) -> list[str]:
        """The keys of :meth:`scores`."""
        return mode_columns(self.bandwidths)

    def scores(self, samples: Tensor) -> dict[str, float]:
        """Score samples ``(N, D)``: those of :func:`mode_scores`, MMD^2 by bandwidth, divergence.

        ``diverged`` is 1 if a sample is not finite, or more than half of them lie outside
        [-3, 3]^2 in the plane of the modes; else 0.
        """
        plane = samples if self._unrotated is None else self._unrotated(samples)
        numbers: list[float] = [*mode_scores(plane, self._centres)]
        outside = plane[:, :2].abs().amax(1) > _LIMIT
        finite = bool(samples.isfinite().all())
        if finite:
            mmd2 = unbiased_mmd2(samples, self.data, self.bandwidths, within=self._within)
            numbers += mmd2.tolist()
        else:
            numbers += [math.nan] * len(self.bandwidths)
        numbers.append(not finite or bool(outside.double().mean() > 0.5))
        return dict(zip(self.names, map(float, numbers), strict=True))


def _check(name: str, points: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise ValueError(
            f"{name}: shape {tuple(points.shape)} is not allowed; it must be (N, 2) or (N, 3)"
        )
