"""Samples of ``predict``, as files."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.checks import one_of, positive
from lightning_igm.evaluation.images import image_data, of_images
from lightning_igm.evaluation.pictures import save_png
from lightning_igm.files import replacing
from lightning_igm.metrics.images import to_uint8

__all__ = ["PredictionWriter"]


class PredictionWriter(BasePredictionWriter):
    """Write what ``predict`` generates into ``predictions`` in the run's folder.

    Images become ``00000000.png`` and so on, or one array ``(N, H, W, C)`` of uint8 in
    ``samples.npz``, which evaluators and ``ImageArrayDataModule`` read. Points that are no images
    always become one array ``(N, D)``. If the folder is not empty, nothing is written.

    Args:
        format: ``png`` or ``npz``.
        num_samples: How many to generate; as many as the test split has by default.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> PredictionWriter("npz", num_samples=50_000).num_samples
        50000
    """

    def __init__(
        self,
        format: Literal["png", "npz"] = "png",  # noqa: A002 - the word on the command line
        num_samples: int | None = None,
    ) -> None:
        super().__init__("batch")
        self.format = one_of("predictions.format", format, ("png", "npz"))
        self.num_samples = (
            None if num_samples is None else positive("predictions.num_samples", num_samples)
        )
        self._weights = ExitStack()
        self._rows: dict[int, npt.NDArray[Any]] = {}
        self._made = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder with files in it, and tell the data how many samples are wanted.

        Raises:
            ValueError: The folder is not empty, or the data module does not take their number.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        folder = _folder(trainer)
        if trainer.is_global_zero and any(folder.glob("*")):
            raise ValueError(
                f"run.dir: {folder} is not empty; move its files or choose another run.dir"
            )
        if self.num_samples is not None:
            data = getattr(trainer, "datamodule", None)
            if not hasattr(data, "num_predictions"):
                raise ValueError(
                    f"predictions.num_samples: {self.num_samples} is not allowed with "
                    f"{type(data).__name__}, which has no num_predictions; leave it out"
                )
            cast(Any, data).num_predictions = self.num_samples
        self._rows, self._made = {}, 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict with the averaged weights if there are any."""
        self._weights.enter_context(evaluation_weights(trainer, pl_module))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back, and write the array if there is one."""
        self._weights.close()
        shares: list[Any] = [self._rows] * trainer.world_size
        if trainer.world_size > 1:
            dist.gather_object(self._rows, shares if trainer.is_global_zero else None)
        rows = {index: row for share in shares for index, row in share.items()}
        self._rows = {}
        if rows and trainer.is_global_zero:
            with replacing(_folder(trainer) / "samples.npz", "wb") as file:
                np.savez(file, np.stack([rows[index] for index in sorted(rows)]))

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write a batch of images, or keep what goes into the array."""
        samples = cast(Tensor, prediction).cpu()
        indices = batch_indices or [
            (self._made + i) * trainer.world_size + trainer.global_rank for i in range(len(samples))
        ]
        self._made += len(samples)
        if not of_images(trainer):
            self._rows.update(zip(indices, samples.float().numpy(), strict=True))
            return
        images = to_uint8(samples, image_data(trainer).value_range)
        if self.format == "npz":
            rows = images.permute(0, 2, 3, 1).contiguous().numpy()
            self._rows.update(zip(indices, rows, strict=True))
            return
        for index, image in zip(indices, images, strict=True):
            save_png(image, _folder(trainer) / f"{index:08d}.png")


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "predictions"
