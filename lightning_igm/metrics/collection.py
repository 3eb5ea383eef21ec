"""What scores need of one set of images, gathered in one pass and in bounded memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_igm.distributed import rank, world_size
from lightning_igm.metrics.colors import main_colors
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.extractors import extract
from lightning_igm.metrics.stacked_digits import stacked_modes

__all__ = ["Collection", "Measures", "collect"]

_MOST_ROWS = {"features": 50_000, "logits": 50_000, "colors": 5_000, "images": 20_000}
_MOST_BYTES = {"images": 2**26}

Rows = dict[str, Tensor]
Part = tuple[int, Rows]


@dataclass
class Collection:
    """Of ``count`` images: moments of all features, and some rows of whatever scores need.

    Attributes:
        count: Number of images.
        mean: ``(D,)``, float64.
        cov: ``(D, D)``, float64, over ``count`` - 1.
        rows: By name, on the CPU, in the order of the images: ``features`` ``(K, D)``, ``logits``,
            ``images`` (uint8), ``colors``, ``modes`` and ``extremes`` (lowest and highest value).
            Features, logits, images and colours are of at most 50,000, 50,000, 20,000 (64 MiB) and
            5,000 images, evenly spaced among all.
    """

    count: int
    mean: Tensor | None = None
    cov: Tensor | None = None
    rows: Rows = field(default_factory=dict)

    def put(self, start: int, rows: Mapping[str, Tensor]) -> None:
        """Take in rows of images ``start``, ``start + 1`` and so on."""
        for name, values in rows.items():
            most = _MOST_ROWS.get(name, self.count)
            if name in _MOST_BYTES:
                size = prod(values.shape[1:]) * values.element_size()
                most = min(most, max(2, _MOST_BYTES[name] // size))
            kept = min(self.count, most)
            if name not in self.rows:
                self.rows[name] = values.new_empty((kept, *values.shape[1:]), device="cpu")
            ends = torch.arange(start, start + len(values) + 1) * kept // self.count
            taken = ends[1:] > ends[:-1]
            target = self.rows[name][int(ends[0]) : int(ends[-1])]
            target.copy_(values if kept == self.count else values[taken.to(values.device)])


class Measures(nn.Module):
    """From uint8 images to the rows that the chosen scores need, with one pass of the extractor.

    Args:
        extractor: See :mod:`lightning_igm.metrics.extractors`.
        names: Rows to make: ``features``, ``logits``, ``images``, ``colors``, ``modes``.
        compiler: What the extractor was compiled with, if it was.
    """

    def __init__(
        self, extractor: nn.Module, names: Iterable[str], compiler: bool | str = False
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.compiler = compiler
        self.names = frozenset(names)
        self.digits = DigitClassifier.pretrained("mnist") if "modes" in self.names else None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Rows:
        """Make the rows of images ``(N, C, H, W)``, uint8.

        Raises:
            ValueError: A score needs logits, and the extractor gives none.
        """
        rows = {}
        if self.names & {"features", "logits"}:
            features, logits = extract(self.extractor, images)
            rows["features"] = features
            if "logits" in self.names:
                if logits is None:
                    raise ValueError(
                        f"scores: 'is' is not allowed with the extractor "
                        f"{type(self.extractor).__name__}, which gives no logits"
                    )
                rows["logits"] = logits
        if "images" in self.names:
            rows["images"] = images
        if "colors" in self.names:
            rows["colors"] = main_colors(images)
        if self.digits is not None:
            rows["modes"] = stacked_modes(images, self.digits.to(images.device))
        return rows


def collect(parts: Iterable[Part], count: int, rounds: int, *, sums: bool) -> Collection:
    """Gather the rows of all processes on the first, and the moments of their features.

    Args:
        parts: Rows of this process's batches, each with the position of its first image; at most
            ``rounds`` of them.
        count: Number of images of all processes.
        rounds: Number of exchanges, the same on all processes.
        sums: Whether moments are wanted.

    Returns:
        The collection; on other processes than the first, without rows.
    """
    collection = Collection(count)
    totals: Rows = {}
    mine = iter(parts)
    for _ in range(rounds):
        part = next(mine, None)
        if part is not None and sums:
            _add(totals, part[1]["features"].double())
        for start, rows in _gathered(part):
            collection.put(start, rows)
    if sums:
        shares = _gathered((0, totals) if totals else None)
        collection.mean, collection.cov = _moments([rows for _, rows in shares], count)
    return collection


def _add(totals: Rows, features: Tensor) -> None:
    """Add to the sum of features and of their products, in place: the products are large."""
    if not totals:
        size = features.shape[1]
        totals |= {"sum": features.new_zeros(size), "outer": features.new_zeros(size, size)}
    totals["sum"] += features.sum(0)
    totals["outer"].addmm_(features.mT, features)


def _moments(shares: list[Rows], count: int) -> tuple[Tensor | None, Tensor | None]:
    """Mean and covariance from the sums of all processes; None on others than the first."""
    if not shares:
        return None, None
    mean = torch.stack([sums["sum"] for sums in shares]).sum(0) / count
    cov = shares[0]["outer"]
    for sums in shares[1:]:
        cov += sums["outer"]
    return mean, cov.addr_(mean, mean, alpha=-count).div_(count - 1)


def _gathered(part: Part | None) -> list[Part]:
    """The parts of all processes that have one, in their order, on the CPU of the first."""
    if world_size() == 1:
        return [] if part is None else [part]
    if part is not None:
        part = part[0], {name: values.cpu() for name, values in part[1].items()}
    parts: list[Part | None] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(part, parts)
    return [other for other in parts or [] if other is not None]
