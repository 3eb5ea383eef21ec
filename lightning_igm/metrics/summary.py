"""The scores by name: what each needs, and how each is made of two collections."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from lightning_igm.checks import one_of, positive
from lightning_igm.metrics.collection import Collection
from lightning_igm.metrics.colors import color_divergence
from lightning_igm.metrics.diversity import mean_similarity
from lightning_igm.metrics.frechet import frechet_error
from lightning_igm.metrics.inception_score import inception_score
from lightning_igm.metrics.kernel_distance import check_kid_subsets, kernel_distance
from lightning_igm.metrics.precision_recall import precision_recall
from lightning_igm.metrics.scores import check_counts
from lightning_igm.metrics.stacked_digits import mode_coverage

__all__ = ["SCORES", "Score", "ScoreSettings", "check_scores", "columns", "needs", "summarize"]

Score = Literal["is", "fid", "kid", "ms_ssim", "precision_recall", "modes", "colors"]


@dataclass(frozen=True)
class ScoreSettings:
    """What scores depend on beside the images.

    Args:
        kid_subset_size: Images of each kind in one of KID's subsets.
        kid_subsets: Number of KID's subsets.
        is_splits: Splits of the Inception Score.
        pairs: Pairs of images for MS-SSIM.
        neighbors: The k of precision and recall.
        seed: Seed of subsets, splits and pairs.

    Raises:
        ValueError: A number is out of range.
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


Scores = dict[str, float]
Make = Callable[[Collection, Collection, ScoreSettings, torch.device], Scores]


def _fid(real: Collection, fake: Collection, s: ScoreSettings, device: torch.device) -> Scores:
    mean1, cov1, mean2, cov2 = (
        cast(Tensor, t).to(device) for t in (real.mean, real.cov, fake.mean, fake.cov)
    )
    fid, error = frechet_error(mean1, cov1, mean2, cov2, fake.rows["features"])
    return {"fid": float(fid), "fid_std": float(error)}


def _kid(real: Collection, fake: Collection, s: ScoreSettings, device: torch.device) -> Scores:
    kid, std = kernel_distance(
        real.rows["features"],
        fake.rows["features"],
        subset_size=s.kid_subset_size,
        subsets=s.kid_subsets,
        seed=s.seed,
        device=device,
    )
    return {"kid": kid, "kid_std": std}


def _is(real: Collection, fake: Collection, s: ScoreSettings, device: torch.device) -> Scores:
    # Large, and of no use to the others: that makes room for FID's matrices.
    score, std = inception_score(fake.rows.pop("logits"), splits=s.is_splits, seed=s.seed)
    return {"inception_score": score, "inception_score_std": std}


def _ms_ssim(real: Collection, fake: Collection, s: ScoreSettings, device: torch.device) -> Scores:
    (own, own_error), (data, data_error) = (
        mean_similarity(images.rows["images"], pairs=s.pairs, seed=s.seed, device=device)
        for images in (fake, real)
    )
    ratio = own / data if data > 0 else math.nan
    return {
        "ms_ssim": own,
        "ms_ssim_std": own_error,
        "ms_ssim_real": data,
        "ms_ssim_real_std": data_error,
        "ms_ssim_ratio": ratio,
        "ms_ssim_ratio_std": math.hypot(own_error, ratio * data_error) / data
        if data > 0
        else ratio,
    }


def _manifolds(
    real: Collection, fake: Collection, s: ScoreSettings, device: torch.device
) -> Scores:
    sets = real.rows["features"], fake.rows["features"]
    precision, recall = precision_recall(*sets, neighbors=s.neighbors, device=device)
    return {
        "precision": precision,
        "precision_std": math.sqrt(precision * (1 - precision) / len(sets[1])),
        "recall": recall,
        "recall_std": math.sqrt(recall * (1 - recall) / len(sets[0])),
    }


def _modes(real: Collection, fake: Collection, s: ScoreSettings, device: torch.device) -> Scores:
    return mode_coverage(fake.rows["modes"], seed=s.seed)


def _colors(real: Collection, fake: Collection, s: ScoreSettings, device: torch.device) -> Scores:
    divergence, error = color_divergence(real.rows["colors"], fake.rows["colors"])
    return {"color_js": divergence, "color_js_std": error}


class _Recipe(NamedTuple):
    """How to make one score; each column has another of the same name and ``_std``."""

    make: Make
    columns: tuple[str, ...]
    generated: tuple[str, ...]
    """Rows of the generated images."""
    real: tuple[str, ...]
    """Rows of the real images."""


_RECIPES: dict[str, _Recipe] = {
    "is": _Recipe(_is, ("inception_score",), ("logits",), ()),
    "fid": _Recipe(_fid, ("fid",), ("features",), ("features",)),
    "kid": _Recipe(_kid, ("kid",), ("features",), ("features",)),
    "ms_ssim": _Recipe(
        _ms_ssim, ("ms_ssim", "ms_ssim_real", "ms_ssim_ratio"), ("images",), ("images",)
    ),
    "precision_recall": _Recipe(_manifolds, ("precision", "recall"), ("features",), ("features",)),
    "modes": _Recipe(_modes, ("modes", "reverse_kl"), ("modes",), ()),
    "colors": _Recipe(_colors, ("color_js",), ("colors",), ("colors",)),
}
SCORES = tuple(_RECIPES)
"""Names of all scores."""


def check_scores(scores: Iterable[str]) -> None:
    """Check names of scores.

    Raises:
        ValueError: One is not known, or there is none.
    """
    for count, name in enumerate(scores):
        one_of(f"scores[{count}]", name, SCORES)


def needs(scores: Iterable[str], kind: Literal["generated", "real"]) -> frozenset[str]:
    """Names of the rows that scores need of generated or of real images.

    Example:
        >>> sorted(needs(["fid", "is"], "generated"))
        ['features', 'logits']
    """
    return frozenset(row for name in scores for row in getattr(_RECIPES[name], kind))


def columns(scores: Iterable[str]) -> list[str]:
    """Names of the numbers that scores give, each before its spread.

    Example:
        >>> columns(["is"])
        ['inception_score', 'inception_score_std']
    """
    names = (column for name in scores for column in _RECIPES[name].columns)
    return [each for name in names for each in (name, f"{name}_std")]


def summarize(
    scores: Sequence[str],
    real: Collection,
    fake: Collection,
    settings: ScoreSettings,
    device: torch.device,
) -> Scores:
    """Make all scores of two collections, each with its spread.

    The spreads: over subsets for KID, over splits for the Inception Score, and standard errors for
    all others, as their functions say.

    Args:
        scores: Names of scores.
        real: Collection of the real images; stays as it is.
        fake: Collection of the generated images; its logits are used up.
        settings: What scores depend on beside the images.
        device: Where to compute.

    Returns:
        The numbers by column; all NaN if an image is not finite.

    Raises:
        ValueError: There are too few images.
    """
    if not fake.rows["extremes"].isfinite().all():
        return dict.fromkeys(columns(scores), math.nan)
    check_counts(
        real.count,
        fake.count,
        None if fake.mean is None else len(fake.mean),
        settings.kid_subset_size if "kid" in scores else None,
    )
    made: Scores = {}
    for name in sorted(scores, key=SCORES.index):
        made |= _RECIPES[name].make(real, fake, settings, device)
    return {name: made[name] for name in columns(scores)}
