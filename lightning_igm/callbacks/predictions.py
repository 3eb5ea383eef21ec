"""Images of ``predict``, as files."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.metrics.images import image_data, of_images, save_png, to_uint8

__all__ = ["PredictionWriter"]


class PredictionWriter(BasePredictionWriter):
    """Write every image that ``predict`` generates as ``predictions/00000000.png`` and so on.

    Points that are no images go to one array for each batch, ``00000000.npy`` and so on. The folder
    is in the run's folder; if it is not empty, nothing is written.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._written = 0
        self._weights = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder with files in it.

        Raises:
            ValueError: The folder is not empty.
        """
        super().setup(trainer, pl_module, stage)
        folder = _folder(trainer)
        if stage == "predict" and trainer.is_global_zero and any(folder.glob("*")):
            raise ValueError(
                f"run.dir: {folder} is not empty; move its files or choose another run.dir"
            )
        self._written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict with the averaged weights if there are any."""
        self._weights.enter_context(evaluation_weights(trainer, pl_module))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        self._weights.close()

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
        """Write a batch: a PNG for each image, or one array of points."""
        folder = _folder(trainer)
        if not of_images(trainer):
            folder.mkdir(parents=True, exist_ok=True)
            number = self._written * trainer.world_size + trainer.global_rank
            np.save(folder / f"{number:08d}.npy", cast(Tensor, prediction).cpu().numpy())
            self._written += 1
            return
        images = to_uint8(cast(Tensor, prediction), image_data(trainer).value_range).cpu()
        for image in images:
            number = self._written * trainer.world_size + trainer.global_rank
            save_png(image, folder / f"{number:08d}.png")
            self._written += 1


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "predictions"
