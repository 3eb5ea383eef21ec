"""From names of scores and their settings to the scores."""

from collections.abc import Iterable
from dataclasses import dataclass

from lightning_igm.checks import one_of, positive
from lightning_igm.metrics.kernel_distance import check_kid_subsets
from lightning_igm.metrics.score import Score, score_classes

__all__ = ["ScoreSettings", "check_scores", "default_scores", "known_scores"]


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of scores.

    Args:
        kid_subset_size: Images of each kind in one of KID's subsets.
        kid_subsets: Number of KID's subsets.
        is_splits: Splits of the Inception Score.
        pairs: Pairs of images for MS-SSIM.
        neighbors: The k of precision and recall.
        seed: Seed of subsets, splits and pairs.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> [score] = ScoreSettings(pairs=100).make(["ms_ssim"])
        >>> score.pairs
        100
    """

    kid_subset_size: int = 500
    kid_subsets: int = 100
    is_splits: int = 10
    pairs: int = 10_000
    neighbors: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_kid_subsets(self.kid_subset_size, self.kid_subsets)
        for name in ("is_splits", "pairs", "neighbors"):
            positive(name, getattr(self, name))

    def make(self, names: Iterable[str]) -> list[Score]:
        """Make scores by name, each once."""
        kinds = [score_classes()[name] for name in dict.fromkeys(names)]
        return [
            kind(**{argument: getattr(self, name) for argument, name in kind.settings.items()})
            for kind in kinds
        ]


def known_scores() -> tuple[str, ...]:
    """Names of all scores of images.

    Example:
        >>> known_scores()[:2]
        ('fid', 'kid')
    """
    return tuple(name for name, kind in score_classes().items() if kind.needs != "points")


def check_scores(scores: Iterable[str]) -> None:
    """Check names of scores.

    Raises:
        ValueError: One is not known.
    """
    for count, name in enumerate(scores):
        one_of(f"scores[{count}]", name, known_scores())


def default_scores(data: str) -> tuple[str, ...]:
    """Names of the scores that are made of a data set unasked.

    Example:
        >>> default_scores("color_mnist")
        ('fid', 'kid', 'colors')
    """
    kinds = score_classes()
    return tuple(name for name in known_scores() if {"*", data} & set(kinds[name].default_on))
