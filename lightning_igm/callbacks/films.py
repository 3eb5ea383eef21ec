"""Pictures of a whole run: how its samples grew up, and what lies between two of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.utils import make_grid

from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.checks import positive
from lightning_igm.data.adapter import data_of
from lightning_igm.evaluation.images import image_data, of_images
from lightning_igm.evaluation.pictures import of_points, save_png
from lightning_igm.files import replacing
from lightning_igm.metrics.images import to_uint8
from lightning_igm.metrics.rng import isolated_rng
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.modes import eval_mode

__all__ = ["Films", "between", "write_film"]

_COMFORTABLE_WIDTH = 500
_LAST_FRAME_TIMES = 8


class Films(Callback):
    """At the end of training, write a film of the sample grids, and interpolations of latents.

    ``samples.gif`` in the run's folder shows the grids that are in ``samples/`` then, those of
    before an interruption included; ``interpolations.png`` images on the way from one latent to
    another, a pair in each row, by the averaged generator if there is one (see
    :class:`~lightning_igm.callbacks.ema.GeneratorEMA`). Points have a film only. Training does not
    change by a bit, and nothing is kept in checkpoints. It comes after the
    :class:`~lightning_igm.callbacks.sample_grid.SampleGrid` among the trainer's callbacks, whose
    last grid is otherwise not in the film.

    Args:
        rows: Pairs of latents; 0 for no interpolations.
        columns: Images in a row, both ends included.
        most_frames: Grids in the film, evenly chosen if there are more; 0 for no film.
        frame_ms: Milliseconds that a grid is shown.
        seed: Seed of the latents.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> Films(rows=4).columns
        12
    """

    def __init__(
        self,
        rows: int = 8,
        columns: int = 12,
        most_frames: int = 60,
        frame_ms: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.rows = positive("films.rows", rows, zero=True)
        self.columns = positive("films.columns", columns)
        self.most_frames = positive("films.most_frames", most_frames, zero=True)
        self.frame_ms = positive("films.frame_ms", frame_ms)
        self.seed = seed

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both: all grids are there, and the last checkpoint is saved after this."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        if self.most_frames:
            grids = sorted((folder / "samples").glob("step_*.png"))
            write_film(grids, folder / "samples.gif", self.most_frames, self.frame_ms)
        data = data_of(trainer)
        if self.rows and of_images(trainer) and not of_points(data):
            save_png(self._interpolations(trainer, pl_module), folder / "interpolations.png")

    @torch.no_grad()
    def _interpolations(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        model = cast(ImplicitGenerativeModule, pl_module)
        in_cube = getattr(model, "latent_distribution", "normal") != "normal"
        with (
            isolated_rng(self.seed),
            eval_mode(model.generator),
            evaluation_weights(trainer, pl_module),
        ):
            # Drawn on the CPU: the same latents on every device.
            noise = model.sample_latent(2 * self.rows, torch.Generator().manual_seed(self.seed))
            starts, ends = noise.cpu().chunk(2)
            latents = between(starts, ends, self.columns, straight=in_cube)
            images = model(latents.flatten(0, 1).to(model.device))
        pixels = to_uint8(images, image_data(trainer).value_range).cpu()
        scale = math.ceil(_COMFORTABLE_WIDTH / (self.columns * pixels.shape[-1]))
        large = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        grid: Tensor = make_grid(large, self.columns, padding=2, pad_value=255)
        return grid


def between(starts: Tensor, ends: Tensor, count: int, *, straight: bool = False) -> Tensor:
    """Latents on the way from one to another.

    Args:
        starts: ``(N, latent_dim)``.
        ends: The same shape.
        count: Latents on each way, both ends included.
        straight: On the line, as for latents in a cube; else on the arc cos(t) start + sin(t) end,
            where each is N(0, I) if the ends are.

    Returns:
        ``(N, count, latent_dim)``.

    Example:
        >>> import torch
        >>> between(torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]]), 3, straight=True)
        tensor([[[0., 2.],
                 [2., 1.],
                 [4., 0.]]])
    """
    t = torch.linspace(0, 1, count, dtype=starts.dtype)[:, None]
    if straight:
        return (1 - t) * starts[:, None] + t * ends[:, None]
    angle = t * (math.pi / 2)
    # Of t = 1 exactly the end: the cosine of pi / 2 comes out rounded.
    return angle.cos().where(t < 1, 0) * starts[:, None] + angle.sin() * ends[:, None]


def write_film(pictures: Sequence[Path], path: Path, most_frames: int, frame_ms: int) -> None:
    """Write pictures as an animated GIF that stays on the last; nothing for less than two.

    Pictures that cannot be read, or are not of the last one's size, are left out.

    Args:
        pictures: PNGs in order.
        path: The GIF.
        most_frames: Of them, evenly chosen if there are more; the last is always there.
        frame_ms: Milliseconds that a picture is shown, and an eighth of what the last is.
    """
    chosen = torch.linspace(0, len(pictures) - 1, min(most_frames, len(pictures))).round().long()
    frames = [frame for i in chosen.tolist() if (frame := _read(pictures[i])) is not None]
    frames = [frame for frame in frames if frame.size == frames[-1].size]
    if len(frames) < 2:
        return
    times = [frame_ms] * (len(frames) - 1) + [_LAST_FRAME_TIMES * frame_ms]
    first, *others = (frame.quantize() for frame in frames)
    settings: dict[str, Any] = {"append_images": others, "duration": times, "loop": 0}
    with replacing(path, "wb") as file:
        first.save(file, format="GIF", save_all=True, **settings)


def _read(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, UnidentifiedImageError):
        return None
