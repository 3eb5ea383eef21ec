"""FID and KID of the generator while it trains, and at validate and test."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_igm.callbacks.features import (
    are_digits,
    data_name,
    generated_features,
    measurement,
    real_features,
)
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.metrics.images import image_data
from lightning_igm.metrics.scores import ImageScores, check_kid_subsets, image_scores


class ImageMetrics(Callback):
    """Score generated images against all training images: ``fid``, ``kid`` and ``kid_std``.

    Every evaluation generates the same latents' images, quantises them to 8 bits and runs one pass
    of the extractor for both scores (see :func:`~lightning_igm.metrics.image_scores`). Features of
    real images are computed once per process. Samples come from the averaged generator if there is
    one (see :class:`~lightning_igm.callbacks.ema.GeneratorEMA`). Training does not change by a bit.
    FID depends on the number of images: compare scores of equal ``num_samples`` only. Samples that
    are not finite are scored NaN.

    A table of all scores is printed at the end of fit, validate and test; ``history`` keeps its
    rows, and checkpoints keep ``history``.

    Args:
        every_n_steps: Generator steps between two evaluations in training; None evaluates only at
            validate and test.
        num_samples: Number of generated images.
        extractor: Maps uint8 images ``(N, C, H, W)`` to features ``(N, D)``, or to a tuple that
            begins with them; run in float32 and eval mode. None is the digit classifier that ships
            with this package on data sets of digits, and no scores on others.
        batch_size: Images generated at a time.
        kid_subset_size: Images of each kind in one of KID's subsets.
        kid_subsets: Number of KID's subsets.
        seed: Seed of the latents and of KID's subsets.

    Attributes:
        history: One row per evaluation: ``step``, ``fid``, ``kid``, ``kid_std``.

    Raises:
        ValueError: If a number is out of its range, or there are fewer images than features or than
            ``kid_subset_size``.

    Example:
        >>> metrics = ImageMetrics(every_n_steps=500, num_samples=1000)
        >>> metrics.history
        []
    """

    def __init__(
        self,
        every_n_steps: int | None = 1000,
        num_samples: int = 2000,
        extractor: nn.Module | None = None,
        batch_size: int = 500,
        kid_subset_size: int = 500,
        kid_subsets: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"{type(self).__name__}: every_n_steps must be at least 1 or None, "
                f"got {every_n_steps}"
            )
        if batch_size < 1:
            raise ValueError(
                f"{type(self).__name__}: batch_size must be at least 1, got {batch_size}"
            )
        check_kid_subsets(kid_subset_size, kid_subsets)
        known = DigitClassifier if extractor is None else extractor
        num_features = int(getattr(known, "num_features", 1))
        least = max(kid_subset_size, num_features + 1)
        if num_samples < least:
            raise ValueError(
                f"{type(self).__name__}: num_samples must be at least {least} (kid_subset_size, "
                f"and more than the {num_features} features), got {num_samples}"
            )
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.extractor = extractor
        self.batch_size = batch_size
        self.kid_subset_size = kid_subset_size
        self.kid_subsets = kid_subsets
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self._real_features: Tensor | None = None
        self._real_source: Any = None
        self._step_before = 0
        self._checkpoint_step: int | None = None
        self._active = True

    @property
    def latest(self) -> dict[str, float] | None:
        """The last row of ``history``; None before the first evaluation."""
        return self.history[-1] if self.history else None

    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> ImageScores:
        """Generate, score and return; every rank returns the same numbers.

        Args:
            trainer: The trainer whose data module has the real images.
            pl_module: The module that generates.

        Raises:
            ValueError: If there is no data module, or there are too few images.
        """
        device = pl_module.device
        with measurement(device, self.seed):
            real = self._real(trainer, device)
            fake = generated_features(
                self._extractor(),
                trainer,
                pl_module,
                num_samples=self.num_samples,
                batch_size=self.batch_size,
                seed=self.seed,
            )
            scores = ImageScores(*[float("nan")] * 3)
            if fake.isfinite().all():
                scores = image_scores(
                    real,
                    fake,
                    kid_subset_size=self.kid_subset_size,
                    kid_subsets=self.kid_subsets,
                    seed=self.seed,
                )
        # Ranks differ in the running statistics of batch normalisation; rank 0 speaks for all.
        return ImageScores(*trainer.strategy.broadcast(tuple(scores)))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier run of the trainer; see whether scores make sense."""
        self._checkpoint_step = None
        self._active = self.extractor is not None or are_digits(trainer)
        if not self._active:
            rank_zero_info(
                "metrics: no scores; the digit classifier's features do not suit "
                f"{data_name(trainer)}, and metrics.extractor names no other"
            )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the step: validate and test do not restore it."""
        self._checkpoint_step = checkpoint["global_step"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the step: batches that train only the critic do not move it."""
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Evaluate if this batch reached a multiple of ``every_n_steps``."""
        every = self.every_n_steps
        if not self._active or every is None:
            return
        if trainer.global_step // every == self._step_before // every:
            return
        row = self._record(trainer.global_step, self.evaluate(trainer, pl_module))
        scores = {name: value for name, value in row.items() if name != "step"}
        # For checkpoints and the progress bar only: logged values reach loggers at the cadence of
        # log_every_n_steps, late, and again with every later row.
        for name, value in scores.items():
            pl_module.log(name, value, logger=False, prog_bar=name == "fid")
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=trainer.global_step)
            logger.save()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, except in the sanity check."""
        if self._active and not trainer.sanity_checking:
            self._evaluate_epoch(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate."""
        if self._active:
            self._evaluate_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of the run."""
        self._print(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, unless this validation is part of fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._print(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        self._print(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far; empty before the first evaluation."""
        return {"history": [dict(row) for row in self.history]} if self.history else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the scores of the run that wrote the checkpoint."""
        self.history = [dict(row) for row in state_dict["history"]]

    def table(self) -> str:
        """Format ``history`` as text, with what the scores depend on below."""
        lines = [f"{'step':>9}  {'fid':>10}  kid ± std"]
        for row in self.history:
            lines.append(
                f"{row['step']:>9.0f}  {row['fid']:>10.4f}  {row['kid']:.5f} ± {row['kid_std']:.5f}"
            )
        extractor = "none" if self.extractor is None else type(self.extractor).__name__
        count = 0 if self._real_features is None else len(self._real_features)
        lines.append(
            f"{self.num_samples:,} generated and {count:,} training images, extractor {extractor}, "
            f"{self.kid_subsets} KID subsets of {self.kid_subset_size}, seed {self.seed}"
        )
        return "\n".join(lines)

    def _evaluate_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if trainer.state.fn != TrainerFn.FITTING and self._checkpoint_step is not None:
            step = self._checkpoint_step
        row = self._record(step, self.evaluate(trainer, pl_module))
        # With "step" among them, Lightning takes it as the loggers' x-axis instead of batches.
        for name, value in row.items():
            pl_module.log(name, value, prog_bar=name == "fid", sync_dist=name != "step")

    def _record(self, step: int, scores: ImageScores) -> dict[str, float]:
        row = {"step": float(step), **scores._asdict()}
        if self.history and self.history[-1]["step"] == step:
            self.history.pop()
        self.history.append(row)
        return row

    def _print(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.history and self._real_features is not None:
            print(f"\n{self.table()}")

    def _real(self, trainer: Trainer, device: torch.device) -> Tensor:
        """Return features of all training images, on every rank."""
        data = image_data(trainer)
        if self._real_features is None or self._real_source is not data:
            self._real_features = real_features(self._extractor(), trainer, device)
            self._real_source = data
        return self._real_features.to(device)

    def _extractor(self) -> nn.Module:
        if self.extractor is None:
            self.extractor = DigitClassifier.pretrained()
        return self.extractor
