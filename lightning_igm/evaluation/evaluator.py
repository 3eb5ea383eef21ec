"""One evaluation: real images once, samples each time, one pass of one extractor for all scores."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from math import nan
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MetricCollection
from tqdm import tqdm

from lightning_igm.distributed import rank, world_size
from lightning_igm.evaluation.cache import StatisticsCache
from lightning_igm.evaluation.images import RealImages
from lightning_igm.metrics.extractors import extract, identity
from lightning_igm.metrics.images import to_uint8
from lightning_igm.metrics.rows import joined
from lightning_igm.metrics.score import Score

__all__ = ["Evaluator"]

_DELAY = 5  # Seconds before a bar appears.


class Evaluator:
    """Scores images; processes share the work, and all get the numbers of the first.

    Args:
        extractor: See :mod:`lightning_igm.metrics.extractors`; run in float32 and eval mode.
        metrics: Scores of this package, in any number.
        cache: Folder where statistics of real images are kept for other runs; None for nowhere.
        compiler: What the extractor was compiled with, if it was: its statistics are kept apart.
        progress: Whether the first process shows a bar if a pass takes a while.

    Example:
        >>> import torch
        >>> from lightning_igm.data import DigitsDataModule
        >>> from lightning_igm.metrics import DigitClassifier, KernelDistance
        >>> digits = DigitsDataModule()
        >>> digits.setup()
        >>> metrics = MetricCollection([KernelDistance(subset_size=50, subsets=5)])
        >>> evaluator = Evaluator(DigitClassifier.pretrained(), metrics)
        >>> evaluator.take_real(RealImages(digits, "test", torch.device("cpu")))
        >>> noise = torch.rand(100, *digits.image_shape)
        >>> evaluator.score([(0, noise)], count=100, value_range=(0.0, 1.0))["kid"] > 0
        True
    """

    def __init__(
        self,
        extractor: nn.Module,
        metrics: MetricCollection,
        cache: Path | None = None,
        *,
        compiler: bool | str = False,
        progress: bool = False,
    ) -> None:
        self.extractor = extractor
        self.metrics = metrics
        self.cache = cache
        self.compiler = compiler
        self.progress = progress
        self.scores = cast(list[Score], list(metrics.values(copy_state=False)))
        room: dict[str, Tensor] = {}
        for score in self.scores:
            score.rows_on_cpu, score.room = True, room  # Rows may be many, and are kept once.
            score.reset_real_features = True  # They are kept here.
        self.real_count = 0
        """Number of real images."""
        self._source: RealImages | None = None
        self._real: dict[str, Tensor] = {}

    def take_real(self, images: RealImages) -> None:
        """Take in real images, or what the cache has of them; the same ones once.

        The file's name depends on the data set, the split and every image as the extractor sees
        it, so that no preparation is left out; on the extractor, its weights and its compiler; and
        on what is kept.
        """
        if images == self._source:
            return
        self.metrics.to(images.device).reset()
        if self.cache is None:
            self._real = self._pass(images)
        else:
            cache = StatisticsCache(self.cache, self._key(images))
            with cache.locked() if rank() == 0 else nullcontext():
                found = cache.load() if rank() == 0 else None
                if from_the_first(found is not None):
                    self._real = found or {}
                else:
                    self._real = self._pass(images)
                    if rank() == 0:
                        cache.save(self._real)
        self._source, self.real_count = images, images.count

    def score(
        self,
        samples: Iterable[tuple[int, Tensor]],
        count: int,
        value_range: tuple[float, float],
        batches: int | None = None,
    ) -> dict[str, float]:
        """Score generated images; all processes return the same numbers.

        Samples that leave the range of values are clamped, and that is said.

        Args:
            samples: This process's share: float images ``(N, C, H, W)``, each batch with the
                position of its first image among all.
            count: Number of images of all processes.
            value_range: The values of black and of white.
            batches: Number of this process's batches, for the bar.

        Returns:
            The numbers by column; all NaN if an image is not finite.

        Raises:
            ValueError: There are too few images.
        """
        self.metrics.reset()  # Of a pass that an error has ended.
        extremes = []
        for start, images in self._shown(samples, "Generating and scoring", batches):
            flat = images.flatten(1).float()
            extremes.append(torch.stack([flat.amin(1), flat.amax(1)], 1))
            self._take(to_uint8(images, value_range), start, real=False, total=count)
        ends = _on_the_first(extremes)
        self._gather("fake_")
        outcome: dict[str, float] | str = {}
        if ends is not None:
            _tell_of_extremes(ends, value_range)
            try:
                outcome = self._numbers() if ends.isfinite().all() else {}
            except ValueError as error:
                outcome = str(error)
        # The other processes wait: they must hear of an error, too.
        outcome = from_the_first(outcome)
        if isinstance(outcome, str):
            raise ValueError(outcome)
        self.metrics.reset()
        return {n: outcome.get(n, nan) for score in self.scores for n in score.names()}

    def _numbers(self) -> dict[str, float]:
        """The numbers of what the first process has; torchmetrics' own way would sync again."""
        numbers: dict[str, float] = {}
        for score in self.scores:
            for name in score.metric_state:
                if name in self._real:
                    setattr(score, name, [self._real[name]])
        for score in sorted(self.scores, key=lambda score: score.needs != "logits"):
            numbers |= score.scores()
            if score.needs == "logits":
                score.reset()  # Large, and of no use to the others: room for FID's matrices.
        return numbers

    def _take(self, images: Tensor, start: int, *, real: bool, total: int) -> None:
        """Pass uint8 images ``(N, C, H, W)`` through the extractor, and on to all scores."""
        needs = {score.needs for score in self.scores if score.compares or not real}
        features = logits = None
        if needs & {"features", "logits"}:
            features, logits = extract(self.extractor, images)
        if "logits" in needs and logits is None:
            raise ValueError(
                "scores: 'is' is not allowed with the extractor "
                f"{type(self.extractor).__name__}, which gives no logits"
            )
        given = {"features": features, "logits": logits, "images": images}
        index = torch.arange(start, start + len(images))
        self.metrics.update(**given, real=real, index=index, total=total)

    def _pass(self, images: RealImages) -> dict[str, Tensor]:
        """Statistics of all real images that the scores keep, on the first process."""
        for start, batch in self._shown(images, "Real images", len(images)):
            self._take(batch, start, real=True, total=images.count)
        states = self._gather("real_")
        self.metrics.reset()
        return states

    def _gather(self, prefix: str) -> dict[str, Tensor]:
        """Bring states of all processes together on the first; what scores share is one tensor."""
        states = {}
        for name in dict.fromkeys(n for score in self.scores for n in score.metric_state):
            if name.startswith(prefix):
                holders = [score for score in self.scores if name in score.metric_state]
                rows = _on_the_first(getattr(holders[0], name))
                for score in holders:
                    setattr(score, name, [] if rows is None else [rows])
                if rows is not None:
                    states[name] = rows
        return states

    def _key(self, images: RealImages) -> dict[str, Any]:
        """All that the states of real images depend on."""
        states = {name for score in self.scores for name in score.metric_state}
        return {
            **images.about(),
            "extractor": identity(self.extractor),
            "states": sorted(name for name in states if name.startswith("real_")),
            **({"compile": self.compiler} if self.compiler else {}),
        }

    def _shown(
        self, parts: Iterable[tuple[int, Tensor]], what: str, batches: int | None
    ) -> Iterator[tuple[int, Tensor]]:
        """The same parts, with a bar on the first process if that takes a while."""
        hidden = rank() != 0 or not self.progress
        yield from tqdm(parts, what, batches, leave=False, disable=hidden, delay=_DELAY)


def from_the_first(value: Any) -> Any:
    """The first process's value, on all."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def _on_the_first(parts: list[Tensor]) -> Tensor | None:
    """Rows of all processes on the first, in the order of the processes; None elsewhere."""
    rows = joined(parts) if parts else None
    if world_size() == 1:
        return rows
    shares: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(None if rows is None else rows.cpu(), shares)
    there = [share for share in shares or [] if share is not None]
    return torch.cat(there) if there else None


def _tell_of_extremes(extremes: Tensor, value_range: tuple[float, float]) -> None:
    low, high = value_range
    slack = 1e-3 * (high - low)
    broken = ~extremes.isfinite().all(1)
    beyond = ~broken & ((extremes[:, 0] < low - slack) | (extremes[:, 1] > high + slack))
    total = f"of {len(extremes):,} generated images"
    if broken.any():
        rank_zero_info(f"metrics: {int(broken.sum()):,} {total} are not finite; scores are NaN")
    if beyond.any():
        found = f"[{extremes[beyond, 0].min():.3g}, {extremes[beyond, 1].max():.3g}]"
        rank_zero_info(
            f"metrics: {int(beyond.sum()):,} {total} have values outside the data's "
            f"[{low:g}, {high:g}], in {found}; they are clamped"
        )
