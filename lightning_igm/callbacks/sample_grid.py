"""Pictures of what the generator makes of the same noise as it trains."""

import math
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import make_grid

from lightning_igm.callbacks.cadence import EveryNSteps
from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.checks import checkpoint_has_all
from lightning_igm.data.adapter import data_of, is_stream
from lightning_igm.evaluation.images import image_data, of_images, random_images
from lightning_igm.evaluation.pictures import (
    BLUE,
    ORANGE,
    of_points,
    plane,
    save_png,
    scatter,
    surroundings,
)
from lightning_igm.metrics.images import to_uint8
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.modes import eval_mode

# A grid narrower than this is enlarged: images of digits are too small to judge otherwise.
_COMFORTABLE_WIDTH = 500
_PADDING = 2


class SampleGrid(EveryNSteps):
    """Write a grid of samples every so many generator steps; of points a scatter plot.

    The noise is drawn once and kept in checkpoints, so that grids of one run show the same samples
    growing up. Files go to ``<default_root_dir>/samples``: ``real.png`` with random training images
    at the start, then ``step_00000500.png`` and so on, and a last one at the end. TensorBoard and
    W&B loggers get each grid as ``samples``. Samples come from the averaged generator if there is
    one (see :class:`~lightning_igm.callbacks.ema.GeneratorEMA`), in eval mode. Training does
    not change by a bit.

    On data that are points, test points are blue and samples orange, all in the square around the
    test points; points of a tilted ring are seen in the plane of the circle.

    Args:
        every_n_steps: Generator steps between two grids.
        num_samples: Images in a grid.
        nrow: Images in a row.
        scale: Pixels of the grid per pixel of an image and axis; None enlarges small images until
            the grid is 500 pixels wide.
        seed: Seed of the noise, and of the choice of real examples.
        num_points: Points of each colour in a scatter plot.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> SampleGrid(every_n_steps=100, num_samples=16, nrow=4).nrow
        4
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        num_samples: int = 64,
        nrow: int = 8,
        scale: int | None = None,
        seed: int = 0,
        num_points: int = 1000,
    ) -> None:
        for name, value in (
            ("every_n_steps", every_n_steps),
            ("num_samples", num_samples),
            ("nrow", nrow),
            ("scale", 1 if scale is None else scale),
            ("num_points", num_points),
        ):
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {value}")
        super().__init__(every_n_steps)
        self.num_samples = num_samples
        self.nrow = nrow
        self.scale = scale
        self.seed = seed
        self.num_points = num_points
        self._noise: Tensor | None = None
        self._last_written: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the noise unless a checkpoint brought it, and write the real images."""
        self._last_written = None
        points, stream = of_points(_data(trainer)), is_stream(_data(trainer))
        if not (points or of_images(trainer)) or (points and stream):
            return
        count = self.num_points if points else self.num_samples
        if self._noise is None or len(self._noise) != count:
            # Drawn on the CPU: the same noise on every device.
            generator = torch.Generator().manual_seed(self.seed)
            model = cast(ImplicitGenerativeModule, pl_module)
            with isolated_rng():
                self._noise = model.sample_latent(count, generator).cpu()
        if trainer.is_global_zero and not stream:
            picture = (
                self._scatter(trainer) if points else self._real_grid(trainer, pl_module.device)
            )
            save_png(picture, _folder(trainer) / "real.png")

    def on_due_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a grid."""
        self._write_samples(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last grid."""
        if self._last_written != trainer.global_step:
            self._write_samples(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the noise; empty before it is drawn."""
        return {} if self._noise is None else {"noise": self._noise}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the noise from a checkpoint."""
        with checkpoint_has_all(f"the state of {type(self).__name__}"):
            self._noise = state_dict["noise"].cpu()

    def _write_samples(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = self._last_written = trainer.global_step
        if not trainer.is_global_zero or self._noise is None:
            return
        noise = self._noise.to(pl_module.device)
        with (
            torch.no_grad(),
            isolated_rng(self.seed),
            eval_mode(pl_module),
            evaluation_weights(trainer, pl_module),
        ):
            samples = pl_module(noise)
        if of_points(_data(trainer)):
            grid = self._scatter(trainer, samples)
        else:
            grid = self._grid(to_uint8(samples, image_data(trainer).value_range))
        save_png(grid, _folder(trainer) / f"step_{step:08d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", grid, step)
            elif isinstance(logger, WandbLogger):
                # uint8: wandb does not scale floats.
                logger.log_image("samples", [grid.permute(1, 2, 0).numpy()], step=step)

    def _scatter(self, trainer: Trainer, samples: Tensor | None = None) -> Tensor:
        """Test points, and samples ``(N, D)`` over them, as one RGB image ``(3, side, side)``."""
        data = _data(trainer)
        draw = torch.Generator().manual_seed(self.seed)
        rows = torch.randperm(len(data.test_data), generator=draw)[: self.num_points]
        shown = plane(data, data.test_data[rows])
        sets = [(shown, BLUE)]
        if samples is not None:
            sets.append((plane(data, samples), ORANGE))
        return scatter(sets, surroundings(shown))

    def _real_grid(self, trainer: Trainer, device: torch.device) -> Tensor:
        data = image_data(trainer)
        with isolated_rng():
            images = torch.cat(list(random_images(data, device, self.num_samples, self.seed)))
        return self._grid(images)

    def _grid(self, images: Tensor) -> Tensor:
        """Lay uint8 images ``(N, C, H, W)`` out as one RGB image ``(3, height, width)``."""
        columns = min(self.nrow, len(images))
        scale = self.scale or math.ceil(_COMFORTABLE_WIDTH / (columns * images.shape[-1]))
        large = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        grid: Tensor = make_grid(large, columns, padding=_PADDING, pad_value=255)
        return grid


def _data(trainer: Trainer) -> Any:
    return data_of(trainer)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "samples"
