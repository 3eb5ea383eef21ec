"""Singular values of the critic's weights while it trains."""

import csv
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_igm.callbacks.cadence import EveryNSteps
from lightning_igm.checks import checkpoint_has_all, positive
from lightning_igm.data.adapter import data_of, is_stream
from lightning_igm.evaluation.images import random_images
from lightning_igm.files import replacing
from lightning_igm.losses._support import couples_images
from lightning_igm.losses.jacobians import squared_jacobian_norms
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.networks.spectral import singular_values

__all__ = ["CriticSpectrum"]

# A square layer of random weights may have a large condition number from the start.
_GROWTH = 10
_IMAGES, _SEED = 64, 0
_COEFFICIENT = 10  # The s of the released scaled MMD.


class CriticSpectrum(EveryNSteps):
    """Log how well conditioned the critic's layers are every so many generator steps.

    For each convolution and linear layer, with the raw weight (without a spectral parametrization)
    as a matrix ``(out, in h w)``: ``largest_singular_value/<layer>`` and
    ``condition_number/<layer>``, the ratio of the first singular value to the last; and
    ``critic_condition_number``, the largest of these ratios. All singular values go to
    ``<default_root_dir>/spectrum/step_00001000.csv`` and so on. Beside them ``critic_complexity``:
    that among the module's latest training values if it keeps one, and else ``1 + 10 E ||J||_F^2``
    over 64 random training images, the same in all runs, unless the critic couples the images of a
    batch or the data are points.

    "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018,
    https://arxiv.org/abs/1805.11565; Figures 2 and 9): a critic whose layers lose rank makes the
    expected squared gradient small where the largest one is not, and the training fails. A layer
    that comes close to that is warned of, once. Training does not change by a bit.

    Args:
        every_n_steps: Generator steps between two measurements.
        max_condition_number: A layer is warned of when its condition number is above this and ten
            times what it was at the start of the run.

    Raises:
        ValueError: If a number is out of its range, or the module has no critic.

    Example:
        >>> CriticSpectrum(every_n_steps=500).every_n_steps
        500
    """

    def __init__(self, every_n_steps: int = 1000, max_condition_number: float = 1000.0) -> None:
        super().__init__(positive("CriticSpectrum.every_n_steps", every_n_steps))
        if not max_condition_number > 1:
            raise ValueError(
                f"CriticSpectrum.max_condition_number: {max_condition_number} is not allowed; it "
                "must be more than 1"
            )
        self.max_condition_number = max_condition_number
        self._images: Tensor | None = None
        self._at_start: dict[str, float] = {}
        self._warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a critic, with layers to measure.

        Raises:
            ValueError: There is none.
        """
        critic = getattr(pl_module, "critic", None)
        layers = critic.modules() if isinstance(critic, nn.Module) else ()
        if not any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers):
            raise ValueError(
                f"CriticSpectrum: {type(pl_module).__name__} has no critic with Conv2d or Linear "
                "layers; leave the callback out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure where condition numbers start from, unless a checkpoint says it."""
        if trainer.is_global_zero and not self._at_start:
            self._at_start = condition_numbers(_spectrum(pl_module))

    def on_due_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        # Ranks have the same weights; rank 0 speaks for all.
        if trainer.is_global_zero:
            self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the condition numbers at the start, and the layers that were warned of."""
        return {"at_start": self._at_start, "warned": sorted(self._warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over from a checkpoint."""
        with checkpoint_has_all(f"the state of {type(self).__name__}"):
            self._at_start = state_dict["at_start"]
            self._warned = set(state_dict["warned"])

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        spectrum = _spectrum(pl_module)
        conditions = condition_numbers(spectrum)
        largest = {name: float(values[0]) for name, values in spectrum.items()}
        metrics = {f"largest_singular_value/{name}": value for name, value in largest.items()}
        metrics |= {f"condition_number/{name}": value for name, value in conditions.items()}
        metrics["critic_condition_number"] = max(conditions.values())
        complexity = self._complexity(trainer, pl_module)
        if complexity is not None:
            metrics["critic_complexity"] = complexity
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
            logger.save()
        _write(spectrum, Path(trainer.default_root_dir), trainer.global_step)
        self._warn(conditions, trainer.global_step)

    def _complexity(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """The scale that the scaled MMD divides by, of a critic of any method."""
        kept = getattr(pl_module, "latest", {}).get("critic_complexity")
        if kept is not None:
            return float(kept)
        critic = cast(nn.Module, pl_module.critic)
        data: Any = data_of(trainer)
        value_range = getattr(data, "value_range", None)  # Points have none.
        coupled = any(map(couples_images, critic.modules()))
        if coupled or value_range is None or not hasattr(data, "ordered_train_dataloader"):
            return None
        if is_stream(data):
            return None
        if self._images is None:
            low, high = value_range
            with isolated_rng():
                chosen = list(random_images(data, pl_module.device, _IMAGES, _SEED))
            images = torch.cat(chosen) / 255 * (high - low) + low
            self._images = images.to(next(critic.parameters()).dtype)
        # A copy: it changes nothing, and of a critic that was compiled to train it is not compiled.
        copy = deepcopy(critic).eval()
        with torch.no_grad():
            norms = squared_jacobian_norms(lambda x: copy(x).reshape(len(x), -1), self._images)
        return 1 + _COEFFICIENT * float(norms.mean())

    def _warn(self, conditions: dict[str, float], step: int) -> None:
        for name, condition in conditions.items():
            start = self._at_start.get(name, condition)
            collapsed = condition > max(self.max_condition_number, _GROWTH * start)
            if collapsed and name not in self._warned:
                self._warned.add(name)
                rank_zero_warn(
                    f"The critic's layer {name!r} is losing rank: its condition number is "
                    f"{condition:.3g} at generator step {step:,} and was {start:.3g} at the start. "
                    "Give the critic a spectral parametrization (spectral: learnable), or go back "
                    "to an earlier checkpoint and regularise the critic's gradient more."
                )


def condition_numbers(spectrum: dict[str, Tensor]) -> dict[str, float]:
    """Ratio of the first singular value to the last, for each layer."""
    return {name: float(values[0] / values[-1]) for name, values in spectrum.items()}


def _spectrum(pl_module: LightningModule) -> dict[str, Tensor]:
    return singular_values(cast(nn.Module, pl_module.critic))


def _write(spectrum: dict[str, Tensor], folder: Path, step: int) -> None:
    path = folder / "spectrum" / f"step_{step:08d}.csv"
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "singular_value"])
        for name, values in spectrum.items():
            writer.writerows([name, value] for value in values.tolist())
