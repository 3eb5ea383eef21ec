"""Scores of the generator while it trains, and at validate and test."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torchmetrics import MetricCollection

from lightning_igm.callbacks.ema import evaluation_weights, has_average
from lightning_igm.callbacks.evaluation import Evaluation
from lightning_igm.checks import one_of
from lightning_igm.distributed import world_size
from lightning_igm.evaluation.evaluator import Evaluator
from lightning_igm.evaluation.images import (
    RealImages,
    Split,
    are_digits,
    data_name,
    digit_extractor,
    image_data,
)
from lightning_igm.evaluation.samples import buffers_of_the_first, generated_images, measurement
from lightning_igm.evaluation.settings import (
    ScoreSettings,
    check_scores,
    default_scores,
    known_scores,
)
from lightning_igm.evaluation.table import score_table
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.extractors import identity, prepare
from lightning_igm.metrics.inception import InceptionV3
from lightning_igm.metrics.score import score_classes
from lightning_igm.modules.compilation import check_compiler, compile_in_place

Weights = Literal["average", "raw"]
if TYPE_CHECKING:
    ScoreName = str
else:
    ScoreName = Literal[known_scores()]  # For the command line.


class ImageMetrics(Evaluation):
    """Score generated images against real ones, by one pass of one extractor for all scores.

    Every evaluation generates the same latents' images, quantises them to 8 bits and hands them to
    the extractor once. What scores need of the real images is computed once, and kept on disk for
    other runs. Processes share the work, and the numbers are those of one process: all generate
    with the buffers (running statistics) of the first. Training does not change by a bit.

    The scores, and their columns; each column has another with ``_std``, its spread:

    - ``fid``: ``fid``, see :func:`~lightning_igm.metrics.frechet.frechet_error`. It depends on the
      number of images: compare scores of equal numbers only.
    - ``kid``: ``kid``, see :func:`~lightning_igm.metrics.kernel_distance.kernel_distance`.
    - ``is``: ``inception_score``, from an extractor that gives logits.
    - ``ms_ssim``: ``ms_ssim`` of the samples, ``ms_ssim_real`` and ``ms_ssim_ratio``; see
      :func:`~lightning_igm.metrics.diversity.mean_similarity`.
    - ``precision_recall``: ``precision`` and ``recall``.
    - ``modes``: ``modes`` and ``reverse_kl`` of Stacked MNIST.
    - ``colors``: ``color_js`` of Color MNIST.

    Samples that are not finite are scored NaN. Tables, ``scores.json`` and ``history`` are those of
    :class:`~lightning_igm.callbacks.evaluation.Evaluation`.

    Args:
        every_n_steps: Generator steps between two evaluations in training; None evaluates only at
            validate and test.
        num_samples: Number of generated images.
        extractor: See :mod:`lightning_igm.metrics.extractors`; run in float32 and eval mode. None
            is the digit classifier that ships with this package on data sets of digits, and no
            scores on others.
        batch_size: Images generated at a time.
        kid_subset_size: Images of each kind in one of KID's subsets.
        kid_subsets: Number of KID's subsets.
        seed: Seed of the latents, and of subsets, splits and pairs.
        test_samples: Number of generated images at validate and test; ``num_samples`` by default.
        scores: Names of scores. By default FID and KID; ``colors`` for Color MNIST and ``modes``
            for Stacked MNIST too; and the Inception Score with an extractor named InceptionV3.
        split: Which real images: those of the training split, augmented as in training, by the
            data's seed; or those of the test split, not augmented.
        weights: ``average`` for the averaged generator if there is one (see
            :class:`~lightning_igm.callbacks.ema.GeneratorEMA`), ``raw`` for the one that trains.
        is_splits: Splits of the Inception Score.
        pairs: Pairs of images for MS-SSIM.
        cache_dir: Folder of what is kept of the real images; by default ``scores`` in the folder of
            the data, and nowhere for data that have none.
        compile: Whether to compile the extractor; or the name of another backend of
            ``torch.compile`` than its default. Its features are those of the eager one but for
            rounding, and what is kept of the real images is kept apart.

    Attributes:
        history: One row per evaluation: ``step``, ``fid``, ``fid_std`` and so on.

    Raises:
        ValueError: If a number is out of its range, or there are fewer images than features or than
            ``kid_subset_size``.

    Example:
        >>> metrics = ImageMetrics(every_n_steps=500, num_samples=1000, scores=["fid", "ms_ssim"])
        >>> metrics.history
        []
    """

    headline = "fid"

    def __init__(
        self,
        every_n_steps: int | None = 1000,
        num_samples: int = 2000,
        extractor: nn.Module | None = None,
        batch_size: int = 500,
        kid_subset_size: int = 500,
        kid_subsets: int = 100,
        seed: int = 0,
        test_samples: int | None = None,
        scores: list[ScoreName] | None = None,
        split: Split = "train",
        weights: Weights = "average",
        is_splits: int = 10,
        pairs: int = 10_000,
        cache_dir: str | Path | None = None,
        compile: bool | str = False,  # noqa: A002 - as torch calls it
    ) -> None:
        super().__init__(every_n_steps)
        if batch_size < 1:
            raise ValueError(f"ImageMetrics: batch_size must be at least 1, got {batch_size}")
        check_scores(scores or ())
        self.settings = ScoreSettings(kid_subset_size, kid_subsets, is_splits, pairs, seed=seed)
        self.num_samples = num_samples
        self.test_samples = num_samples if test_samples is None else test_samples
        self.extractor = extractor
        self.batch_size = batch_size
        self.scores = scores
        self.split: Split = one_of("split", split, ("train", "test"))
        self.weights: Weights = one_of("weights", weights, ("average", "raw"))
        self.cache_dir = cache_dir
        self.compiler = compile
        self._check_generated()
        self._names: list[str] = []
        self._protocol: dict[str, Any] = {}
        self._digits: dict[str, nn.Module] = {}
        self._evaluator: Evaluator | None = None
        self._made_for: Any = None

    @property
    def protocol(self) -> dict[str, Any]:
        """All that the last scores depend on beside the generator; empty before the first ones."""
        return dict(self._protocol)

    def evaluate(
        self, trainer: Trainer, pl_module: LightningModule, num_samples: int | None = None
    ) -> dict[str, float]:
        """Generate, score and return; every process returns the same numbers.

        Args:
            trainer: The trainer whose data module has the real images.
            pl_module: The module that generates.
            num_samples: Number of generated images; that of the trainer's stage by default.

        Raises:
            ValueError: If there is no data module, or there are too few images.
        """
        fitting = trainer.state.fn in (None, TrainerFn.FITTING)
        count = num_samples or (self.num_samples if fitting else self.test_samples)
        evaluator, images = self._opened(trainer, pl_module.device)
        raw = self.weights == "raw"
        weights = nullcontext() if raw else evaluation_weights(trainer, pl_module)
        with measurement(pl_module.device, self.settings.seed):
            evaluator.take_real(images)
            with weights, buffers_of_the_first(pl_module):
                samples = generated_images(
                    pl_module, count, self.batch_size, self.settings.seed, shared=True
                )
                batches = -(-count // (self.batch_size * world_size()))
                scores = evaluator.score(samples, count, images.data.value_range, batches)
        self._protocol = {
            "scores": list(self._scores(trainer)),
            "data": data_name(trainer),
            "split": self.split,
            **({"augmented": True} if images.augmented else {}),
            "real_images": evaluator.real_count,
            "num_samples": count,
            "batch_size": self.batch_size,
            "weights": self.weights if has_average(trainer) else "raw",
            "extractor": identity(evaluator.extractor),
            **asdict(self.settings),
            **({"compile": self.compiler} if self.compiler else {}),
        }
        return scores

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier run; see whether scores can be made, and make sense.

        Raises:
            ValueError: There are too few images, or the extractor's weights or its compiler are not
            right.
            OSError: They are missing and cannot be downloaded.
        """
        super().setup(trainer, pl_module, stage)
        kinds = [score_classes()[name] for name in self._scores(trainer)]
        self._names = [name for kind in kinds for name in kind.names()]
        without = not {kind.needs for kind in kinds} & {"features", "logits"}
        self.active = self.extractor is not None or are_digits(trainer) or without
        if not self.active:
            rank_zero_info(
                "metrics: no scores; the digit classifier's features do not suit "
                f"{data_name(trainer)}, and metrics.extractor names no other, as InceptionV3"
            )
        elif stage != "predict" and (stage != "fit" or self.every_n_steps is not None):
            extractor = self._extractor(trainer)
            prepare(extractor)
            self._opened(trainer, pl_module.device)
            if self.compiler:
                check_compiler(self.compiler, pl_module.device)
                compile_in_place([extractor], self.compiler)

    def table(self) -> str:
        """Format ``history`` as text, with what the scores depend on below."""
        about = self._protocol
        lines = score_table(self.history)
        if not about:  # The rows are those of a checkpoint.
            return "\n".join(lines)
        lines.append(
            f"{about['num_samples']:,} generated and {about['real_images']:,} "
            f"{'augmented ' * ('augmented' in about)}"
            f"{'training' if about['split'] == 'train' else 'test'} images, "
            f"extractor {about['extractor'].rpartition('-')[0]}, {about['kid_subsets']} KID "
            f"subsets of {about['kid_subset_size']}, seed {about['seed']}"
        )
        return "\n".join(lines)

    def names(self) -> list[str]:
        """Names of the scores, each before its spread; known after ``setup``."""
        return self._names

    def _scores(self, trainer: Trainer) -> tuple[str, ...]:
        """Names of the scores, by the data if none were given."""
        if self.scores is not None:
            return tuple(self.scores)
        known = default_scores(data_name(trainer))
        return ("is", *known) if isinstance(self.extractor, InceptionV3) else known

    def _extractor(self, trainer: Trainer) -> nn.Module:
        if self.extractor is not None:
            return self.extractor
        name = data_name(trainer)
        if name not in self._digits:
            self._digits[name] = digit_extractor(trainer)
        return self._digits[name]

    def _opened(self, trainer: Trainer, device: torch.device) -> tuple[Evaluator, RealImages]:
        """The evaluator and the real images of the trainer's data; too few of them are refused."""
        names, extractor = self._scores(trainer), self._extractor(trainer)
        images = RealImages(image_data(trainer), self.split, device)
        folder = images.folder if self.cache_dir is None else Path(self.cache_dir)
        made_for = names, extractor, folder
        if self._evaluator is None or self._made_for != made_for:
            metrics = MetricCollection(self.settings.make(names))
            self._evaluator = Evaluator(extractor, metrics, folder, compiler=self.compiler)
            self._made_for = made_for
        self._evaluator.progress = trainer.progress_bar_callback is not None
        count, size = images.known_count, getattr(extractor, "num_features", 0)
        for score in self._evaluator.scores if count is not None else ():
            if score.compares:
                score.check("real", count or 0, size)
            score.check("generated", self.num_samples, size)
        return self._evaluator, images

    def _check_generated(self) -> None:
        """Refuse too few generated images, as far as the number of features is known."""
        names = self.scores or default_scores("")
        known = DigitClassifier if self.extractor is None else self.extractor
        size = int(getattr(known, "num_features", 1)) if "fid" in names else 0
        least = max(score.least(size) for score in self.settings.make(names))
        for name in ("num_samples", "test_samples"):
            if getattr(self, name) < least:
                raise ValueError(
                    f"ImageMetrics: {name} must be at least {least} (kid_subset_size, is_splits, "
                    f"and more than the {size} features), got {getattr(self, name)}"
                )
