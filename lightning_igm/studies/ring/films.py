"""GRAM-net at work: its projection of the tilted ring as it trains, and the trace of its losses."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_igm.files import replacing
from lightning_igm.studies._figure import figure
from lightning_igm.studies.ring.cells import Cell, ring_data, write_text
from lightning_igm.studies.ring.models import GRAMNet, batches

__all__ = ["draw_projection", "draw_trace", "record_projection", "record_trace"]

_POINTS = 1000
_FRAMES = 72
_SNAPSHOTS = (1, 1000, 3000)
"""Iterations of the four frames; the fourth is the last."""
_EARLY, _EVERY = 100, 5


@dataclass(frozen=True)
class Film:
    """Points of data and of a generator, seen before and after the projector, frame by frame."""

    steps: Tensor
    """``(T,)``."""
    data: Tensor
    """``(N, 3)``."""
    samples: Tensor
    """``(T, N, 3)``."""
    projected_data: Tensor
    """``(T, N, 2)``."""
    projected_samples: Tensor
    """``(T, N, 2)``."""


def frame_steps(iterations: int) -> list[int]:
    """Iterations at which a film has frames: ever farther apart, and the snapshots."""
    spaced = np.geomspace(1, iterations, min(_FRAMES, iterations)).round().astype(int).tolist()
    return sorted({0, *spaced, *(step for step in _SNAPSHOTS if step < iterations)})


def record_projection(cell: Cell, path: Path) -> Film:
    """Train GRAM-net on the tilted ring and keep what it sees, unless the file is there."""
    if path.exists():
        return Film(**torch.load(path, weights_only=True))
    ring = ring_data(3)
    model = GRAMNet([cell])
    data, steps = ring.test_data[:_POINTS], frame_steps(cell.iterations)
    frames = [_frame(model, data)]
    feed = batches(model, ring.train_data)
    for step, batch in zip(range(1, cell.iterations + 1), feed, strict=False):
        model.step(*batch)
        if step in steps:
            frames.append(_frame(model, data))
    film = Film(torch.tensor(steps), data, *map(torch.stack, zip(*frames, strict=True)))
    with replacing(path, "wb") as file:
        torch.save(vars(film), file)
    return film


def _frame(model: GRAMNet, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    samples = model.samples(_POINTS)
    return samples[0], model.projector(data[None])[0], model.projector(samples)[0]


def draw_projection(film: Film, path: Path) -> None:
    """Four frames as a PNG, data space above projected space, and all of them as a GIF."""
    last = int(film.steps[-1])
    chosen = [int(film.steps.tolist().index(s)) for s in (*_SNAPSHOTS, last) if s <= last]
    with figure(path.with_suffix(".png"), 2, len(chosen), (2.7, 2.7)) as axes:
        for column, frame in zip(axes.T, chosen, strict=True):
            _draw_frame(column, film, frame)
    _animate(film, path.with_suffix(".gif"))


def _draw_frame(column: Any, film: Film, frame: int) -> None:
    """Draw a frame into two axes, the upper of which is made three-dimensional."""
    flat, projected = column
    canvas, place = flat.figure, flat.get_subplotspec()
    flat.remove()
    space = canvas.add_subplot(place, projection="3d")
    for points, colour in ((film.data, "tab:blue"), (film.samples[frame], "tab:orange")):
        space.scatter(*points.T.numpy(), s=1.5, c=colour, depthshade=False, linewidths=0)
    space.set(xlim=(-2, 2), ylim=(-3, 3), zlim=(-3, 3), box_aspect=(2, 3, 3))
    space.set(xticks=(-2, 0, 2), yticks=(-2, 0, 2), zticks=(-2, 0, 2))
    space.set_title(f"iteration {film.steps[frame]:,}", fontsize=9)
    space.tick_params(labelsize=6, pad=-3)
    space.view_init(elev=20, azim=-35)
    for points, colour in (
        (film.projected_data[frame], "tab:blue"),
        (film.projected_samples[frame], "tab:orange"),
    ):
        projected.scatter(*points.T.numpy(), s=2, c=colour, linewidths=0)
    projected.tick_params(labelsize=7)


def _animate(film: Film, path: Path) -> None:
    import matplotlib.pyplot as plt
    from PIL import Image

    pictures = []
    for frame in range(len(film.steps)):
        canvas, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), dpi=80)
        _draw_frame(axes, film, frame)
        with io.BytesIO() as png:
            canvas.savefig(png, format="png")
            pictures.append(Image.open(png).convert("RGB").quantize(64))
        plt.close(canvas)
    durations = [120] * (len(pictures) - 1) + [2000]
    with replacing(path, "wb") as file:
        pictures[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
        )


def record_trace(cells: Sequence[Cell], path: Path) -> None:
    """Write L_g and D* of every seed, every iteration at first and then every fifth, as CSV."""
    if path.exists():
        return
    first = cells[0]
    model = GRAMNet(cells)
    names = [f"{what}_seed{cell.seed}" for what in ("generator_loss", "d_star") for cell in cells]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["iteration", *names])
    feed = batches(model, ring_data(first.dim).train_data)
    for step, batch in zip(range(1, first.iterations + 1), feed, strict=False):
        logged = step <= _EARLY or step % _EVERY == 0
        error = model.ratio_error(*batch).tolist() if logged else []
        root = model.step(*batch)[1].tolist()
        if logged:
            writer.writerow([step, *(f"{value:.6g}" for value in [*root, *error])])
    write_text(path, text.getvalue())


def draw_trace(path: Path) -> None:
    """Draw a table of :func:`record_trace`: the first 100 iterations, and the others."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    table = np.array(rows, dtype=float)
    steps = table[:, 0]
    with figure(path.with_suffix(".png"), 1, 2, (4.6, 3.4)) as ((early, late),):
        for panel, chosen in ((early, steps <= _EARLY), (late, steps >= _EARLY)):
            for what, label in (("d_star", "$D^*$ (Eq. 5)"), ("generator_loss", "$L_g$")):
                columns = [i for i, name in enumerate(names) if name.startswith(what)]
                values = table[chosen][:, columns]
                (line,) = panel.plot(steps[chosen], np.median(values, 1), lw=1, label=label)
                low, high = values.min(1), values.max(1)
                panel.fill_between(steps[chosen], low, high, color=line.get_color(), alpha=0.25)
            panel.set(xlabel="iteration", yscale="log")
            panel.grid(alpha=0.3)
        late.sharey(early)
        late.legend(loc="upper right")
