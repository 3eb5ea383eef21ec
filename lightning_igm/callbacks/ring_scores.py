"""Mode coverage of the generator on the ring while it trains, and at validate and test."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.callbacks.evaluation import Evaluation
from lightning_igm.evaluation.samples import measurement
from lightning_igm.metrics.ring import RingCoverage
from lightning_igm.modules.base import ImplicitGenerativeModule

__all__ = ["RingScores"]


class RingScores(Evaluation):
    """Score generated points against the modes of a ring, and against its test points.

    ``modes_covered``, ``hq``, ``kl_rev``, ``kl_fwd``, ``mmd2_0.2``, ``mmd2_0.5``, ``mmd2_1`` and
    ``diverged``; see :class:`~lightning_igm.metrics.modes.ModeReference`. On data that have no
    ``centres`` there are none. Every evaluation takes the same latents, and the averaged generator
    if there is one (see :class:`~lightning_igm.callbacks.ema.GeneratorEMA`). Training does not
    change by a bit.

    A table of all scores is printed at the end of fit, validate and test; ``history`` keeps its
    rows, and checkpoints keep ``history``.

    Args:
        every_n_steps: Generator steps between two evaluations in training; None evaluates only at
            validate and test.
        num_samples: Number of generated points.
        seed: Seed of the latents.

    Attributes:
        history: One row per evaluation: ``step`` and the scores.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> RingScores(every_n_steps=500).history
        []
    """

    headline = "hq"

    def __init__(
        self, every_n_steps: int | None = 1000, num_samples: int = 10_000, seed: int = 0
    ) -> None:
        super().__init__(every_n_steps)
        if num_samples < 2:
            raise ValueError(
                f"{type(self).__name__}: num_samples must be at least 2, got {num_samples}"
            )
        self.num_samples = num_samples
        self.seed = seed
        self._metric: RingCoverage | None = None
        self._source: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See whether the data have modes."""
        super().setup(trainer, pl_module, stage)
        self.active = hasattr(getattr(trainer, "datamodule", None), "centres")

    def names(self) -> list[str]:
        """Names of the scores."""
        return RingCoverage.names()

    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Generate, score and return; every rank returns the same numbers.

        Args:
            trainer: The trainer whose data module has the modes and the test points.
            pl_module: The module that generates.
        """
        scores: dict[str, float] = {}
        if trainer.is_global_zero:
            device = pl_module.device
            generator = torch.Generator(device).manual_seed(self.seed)
            with measurement(device, self.seed), evaluation_weights(trainer, pl_module):
                model = cast(ImplicitGenerativeModule, pl_module)
                samples = model.sample(self.num_samples, generator).float().cpu()
                metric = self._against(trainer)
                metric.reset()
                metric.update(samples)
                scores = metric.scores()  # Of this process alone: the others wait.
        return dict(trainer.strategy.broadcast(scores))

    @property
    def protocol(self) -> dict[str, Any]:
        """Number and seed of the samples."""
        return {"num_samples": self.num_samples, "seed": self.seed}

    def table(self) -> str:
        """Format ``history`` as text, with what the scores depend on below."""
        lines = [f"{'step':>9}  {'modes':>5}  {'hq':>6}  {'kl_rev':>7}  {'mmd2_0.2':>8}"]
        for row in self.history:
            lines.append(
                f"{row['step']:>9.0f}  {row['modes_covered']:>5.0f}  {row['hq']:>6.4f}  "
                f"{row['kl_rev']:>7.5f}  {row['mmd2_0.2']:>8.5f}"
                + ("  diverged" if row["diverged"] else "")
            )
        lines.append(f"{self.num_samples:,} generated points against the test points")
        return "\n".join(lines)

    def _against(self, trainer: Trainer) -> RingCoverage:
        """The score against the data's test points, made once for a data module."""
        data = cast(Any, trainer).datamodule
        if self._metric is None or self._source is not data:
            unrotated = getattr(data, "unrotated", None)
            self._metric = RingCoverage(data.test_data, data.centres, unrotated)
            self._source = data
        return self._metric
