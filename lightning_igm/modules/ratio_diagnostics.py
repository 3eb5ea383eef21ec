"""How the ratio of GRAMNet is: what is logged of it, and a warning when it has died."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_igm.losses.ratio import (
    GramMatrices,
    condition_numbers,
    pearson_divergence,
    ratio_error,
)

if TYPE_CHECKING:
    from lightning_igm.modules.gram_net import GRAMNet

__all__ = ["RatioDiagnostics"]

# The mean ratio is near 1 where the estimate has something to go by, and 0.9 in good runs.
_DEAD_RATIO = 0.1


class RatioDiagnostics:
    """Diagnostics of a run; they are made where loggers are due, and change nothing."""

    def __init__(self) -> None:
        self._warned = False

    @torch.no_grad()
    def values(
        self, model: GRAMNet, real: Tensor, fake: Tensor, grams: GramMatrices, ratio: Tensor
    ) -> dict[str, Tensor]:
        """Values for the loggers, by name.

        Args:
            model: Says what is to be logged.
            real: ``(N, C, H, W)``.
            fake: ``(N, C, H, W)``.
            grams: Of their features.
            ratio: Estimated at the fakes.
        """
        q, p = grams.features[: grams.n_q], grams.features[grams.n_q :]
        values = {
            "pearson_divergence": pearson_divergence(ratio),
            "ratio_second_moment": ratio.square().mean(),
            "ratio_mean": ratio.mean(),
            "ratio_min": ratio.min(),
            "ratio_negative_share": (ratio < 0).to(ratio.dtype).mean(),
            "fake_feature_scale": q.square().mean().sqrt(),
            "real_feature_scale": p.square().mean().sqrt(),
        }
        if model.log_condition_number:
            numbers = condition_numbers(grams, model.jitter)
            values["condition_number"] = numbers.max()
            if len(numbers) > 1:
                values |= {f"condition_number/{i}": number for i, number in enumerate(numbers)}
        if model.log_d_star:
            values["d_star"] = ratio_error(fake, real, ratio, grams.sigmas, model.jitter)
        return values

    def warn_if_dead(self, model: GRAMNet, values: Mapping[str, Tensor | float]) -> None:
        """Warn once, by what is logged, if the ratio has died."""
        if self._warned or isinstance(model.sigmas, str) or "ratio_mean" not in values:
            return
        mean = float(values["ratio_mean"])
        scale = max(float(values[f"{kind}_feature_scale"]) for kind in ("fake", "real"))
        if mean < _DEAD_RATIO and scale > max(model.sigmas):
            self._warned = True
            rank_zero_warn(
                f"The ratio has died at generator step {model.global_step}: its mean is "
                f"{mean:.3g}, and should be near 1. The projected features have grown to a scale "
                f"of {scale:.3g} with bandwidths up to {max(model.sigmas):.3g}, and few are "
                "within reach of one another: neither player learns much. Give larger sigmas, or "
                "'median'; or a smaller learning rate or spectral normalization to the critic."
            )
