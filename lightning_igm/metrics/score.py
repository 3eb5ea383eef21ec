"""The base of scores as torchmetrics: rows of two sets, their order and their number."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

import lightning_igm.metrics
from lightning_igm.metrics.rows import evenly, gather_rows, joined, same_memory

__all__ = ["FeatureScore", "Score", "score_classes"]

_KNOWN: dict[str, type["Score"]] = {}


class Score(Metric, ABC):
    """A score of generated samples, most of them against real ones.

    A new score is a subclass in a file of this folder: its class attributes are what the table,
    ``igm-compare`` and W&B know of it. :meth:`compute` gives a number for each column, and one for
    its spread in a column of the same name and ``_std``, float64.

    Updates take the first argument by the name of what the score ``needs``; in a
    ``MetricCollection`` one call with ``features=``, ``logits=`` and ``images=`` feeds all scores
    from one pass of one extractor. Some processes may have more rows than others, or none. Where
    scores draw subsets, rows count in the order of the processes and of their updates; or in that
    of ``index``, their positions among all of their kind, whichever process has them.

    Args:
        reset_real_features: Whether :meth:`reset` forgets the real samples, too.
        rows_on_cpu: Whether rows are kept on the CPU; computing is on the metric's device.
        kwargs: Those of ``torchmetrics.Metric``.

    Example:
        >>> from torchmetrics import MetricCollection
        >>> from lightning_igm.metrics import DigitClassifier, FrechetDistance, KernelDistance
        >>> metrics = MetricCollection([FrechetDistance(), KernelDistance(subset_size=50)])
        >>> extractor = DigitClassifier.pretrained()
        >>> images = torch.randint(256, (200, 1, 28, 28), dtype=torch.uint8)
        >>> for real in (True, False):
        ...     features, logits = extractor(images)
        ...     metrics.update(features=features, logits=logits, images=images, real=real)
        >>> sorted(metrics.compute())
        ['fid', 'fid_std', 'kid', 'kid_std']
    """

    name: ClassVar[str]
    """Its name in ``metrics.scores``."""
    columns: ClassVar[Mapping[str, bool | None]]
    """Its numbers, and whether higher ones are better; None if neither are."""
    headlines: ClassVar[Sequence[str] | None] = None
    """Columns that ``igm-compare`` shows unasked; those with a direction by default."""
    order: ClassVar[int] = 100
    """Place among the scores."""
    digits: ClassVar[int] = 4
    """Decimals in tables."""
    has_spreads: ClassVar[bool] = True
    needs: ClassVar[str]
    """``features``, ``logits``, ``images`` (uint8) or ``points``."""
    compares: ClassVar[bool] = True
    """Whether it needs real samples."""
    default_on: ClassVar[Sequence[str]] = ()
    """Data sets that it is made on unasked; ``*`` for all."""
    settings: ClassVar[Mapping[str, str]] = {}
    """Arguments of the constructor, and the settings of an evaluation that they take."""
    max_rows: ClassVar[int] = 50_000
    """Rows of a kind that are used where all are not needed, evenly spaced among all."""
    too_few: ClassVar[str] = (
        "{name}: {count} {kind} samples are not allowed; there must be {least} or more"
    )

    is_differentiable = False
    full_state_update = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _KNOWN[cls.name] = cls

    def __init__(
        self, *, reset_real_features: bool = True, rows_on_cpu: bool = False, **kwargs: Any
    ) -> None:
        kwargs.setdefault("dist_sync_fn", gather_rows)
        super().__init__(**kwargs)
        self.reset_real_features = reset_real_features
        self.rows_on_cpu = rows_on_cpu
        self.room: dict[str, Tensor] = {}
        """Memory for rows whose number is known, by their state; scores may share it."""

    @classmethod
    def names(cls) -> list[str]:
        """Names of the numbers, each before its spread."""
        if not cls.has_spreads:
            return list(cls.columns)
        return [name for column in cls.columns for name in (column, f"{column}_std")]

    @classmethod
    def shown(cls) -> list[str]:
        """Columns that ``igm-compare`` shows unasked."""
        if cls.headlines is not None:
            return list(cls.headlines)
        return [name for name, higher in cls.columns.items() if higher is not None]

    @abstractmethod
    def scores(self) -> Mapping[str, float]:
        """Make the numbers of what was taken in, in all processes."""

    def compute(self) -> dict[str, Tensor]:
        """Make the numbers, ``()`` each, float64.

        Raises:
            ValueError: There are too few samples.
        """
        made = self.scores()
        return {
            name: torch.tensor(made[name], dtype=torch.float64, device=self.device)
            for name in self.names()
        }

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a batch of one kind has no score.

        Raises:
            TypeError: Always; nothing is taken in.
        """
        name = type(self).__name__
        raise TypeError(f"{name}: a batch alone has no score; call update, and compute at the end")

    def least(self, num_features: int = 0) -> int:
        """Smallest number of samples of a kind."""
        return 2

    def check(self, kind: str, count: int, num_features: int = 0) -> None:
        """Refuse too few samples.

        Args:
            kind: ``real`` or ``generated``.
            count: Number of samples.
            num_features: Size of their features.

        Raises:
            ValueError: They are too few.
        """
        least = self.least(num_features)
        if count < least:
            about = {"name": type(self).__name__, "kind": kind, "count": count, "least": least}
            raise ValueError(self.too_few.format(**about))

    def reset(self) -> None:
        """Forget the samples; the real ones only with ``reset_real_features``."""
        # Copies: torchmetrics empties the lists themselves.
        kept = {
            name: list(getattr(self, name)) for name in self._defaults if name.startswith("real_")
        }
        super().reset()
        self.room.clear()
        if not self.reset_real_features:
            for name, values in kept.items():
                setattr(self, name, values)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the columns of one result, or of several; see ``torchmetrics.Metric``."""
        several = isinstance(val, Sequence)
        shown = [
            {name: value for name, value in row.items() if name in self.columns}
            for row in (val if several else [self.compute() if val is None else val])
        ]
        return self._plot(shown if several else shown[0], ax)

    def hold(self, *names: str) -> None:
        """Make states for rows and their positions: of ``real_features`` and the like.

        Scores that hold rows of one name share them in an evaluation.
        """
        for name in names:
            self.add_state(name, [], "cat")
            self.add_state(f"{name}_index", [], "cat")

    def keep(
        self, name: str, values: Tensor, index: Tensor | None = None, total: int | None = None
    ) -> None:
        """Take rows in.

        Args:
            name: Of their state.
            values: ``(N, ...)``.
            index: Their positions ``(N,)`` among all of their kind; all rows have one, or none has.
            total: Number of all of their kind, if it is known: rows that would not be used are not
                even kept then.

        Raises:
            ValueError: They are of another shape than those before.
        """
        held = getattr(self, name)
        if held and held[0].shape[1:] != values.shape[1:]:
            raise ValueError(
                f"{name.partition('_')[2]}: shape {tuple(values.shape)} is not allowed after "
                f"{tuple(held[0].shape)}; rows must be alike"
            )
        device = "cpu" if self.rows_on_cpu else values.device
        if values.is_floating_point() and values.dtype != torch.float64:
            values = values.float()
        if index is None:
            index, total = torch.zeros(len(values), dtype=torch.long), None
        room = None
        if total is not None:
            most = min(total, self.most_rows(values))
            if most < total:
                taken = (index + 1) * most // total > index * most // total
                values, index = values[taken.to(values.device)], index[taken]
            if not held:
                if name not in self.room:
                    self.room[name] = values.new_empty((most, *values.shape[1:]), device=device)
                held.append(self.room[name][:0])
            room = self.room.get(name)
        getattr(self, f"{name}_index").append(index.to(device))
        if room is not None and same_memory(held[-1], room):
            filled = len(held[-1]) + len(values)
            if filled <= len(room):
                held[-1] = room[:filled]
                held[-1][filled - len(values) :] = values
                return
        self.room.pop(name, None)
        held.append(values.detach().to(device))

    def rows(self, name: str) -> Tensor:
        """All rows of a state, in their order, and no more than are used."""
        self.check("real" if name.startswith("real") else "generated", self.count(name))
        values, index = (joined(getattr(self, n)) for n in (name, f"{name}_index"))
        if (index[1:] < index[:-1]).any():
            values = values[index.argsort(stable=True)]
        most = self.most_rows(values)
        return values if len(values) <= most else values[evenly(len(values), most)]

    def count(self, name: str) -> int:
        """Number of rows in a state."""
        held = getattr(self, name)
        return len(held) if isinstance(held, Tensor) else sum(map(len, held))

    def most_rows(self, values: Tensor) -> int:
        """How many rows like these are used."""
        return self.max_rows


class FeatureScore(Score):
    """A score of two sets of features; two of them in a ``MetricCollection`` share the rows."""

    needs = "features"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hold("real_features", "fake_features")

    def update(
        self, features: Tensor, real: bool, index: Tensor | None = None, total: int | None = None
    ) -> None:
        """Take in features ``(N, D)``; see :meth:`keep`."""
        if features.ndim != 2:
            raise ValueError(
                f"features: shape {tuple(features.shape)} is not allowed; it must be (N, D)"
            )
        self.keep("real_features" if real else "fake_features", features, index, total)


def score_classes() -> dict[str, type[Score]]:
    """All scores by name: those of this folder, and of the user's files that were imported.

    Example:
        >>> score_classes()["fid"].columns
        {'fid': False}
    """
    for module in pkgutil.iter_modules(lightning_igm.metrics.__path__):
        import_module(f"lightning_igm.metrics.{module.name}")
    return dict(sorted(_KNOWN.items(), key=lambda item: item[1].order))
