"""Reports of the ring study: a table of all results, a summary and pictures."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

from lightning_igm.studies._figure import figure
from lightning_igm.studies.ring.cells import Cell, Result, ring_data, write_text

__all__ = ["draw", "summary", "write_tables"]

Grid = dict[tuple[int, int, int], list[Result]]
"""Results of one variant by panel; the seeds of each."""

_NAMES = {"gramnet": "GRAM-net", "mmdgan": "MMD-GAN", "mmdnet": "MMD-net", "gan": "GAN"}
_MODES = 8
_SETTINGS = "model", "ring", "beta2", "regulariser", "iterations", "seeds"
_COLUMNS = {
    "modes_covered": "modes",
    "hq": "hq",
    "kl_rev": "KL",
    "mmd2_0.2": "MMD^2, 0.2",
    "mmd2_1": "MMD^2, 1",
}
_DRAWN = ("modes_covered", "hq", "kl_rev", "mmd2_0.2", "mmd2_1")
_LINEAR = {"modes_covered": (-0.4, 8.4), "hq": (-0.03, 1.03)}
_LOGARITHMIC = {"kl_rev": (1e-4, 3.0), "mmd2_0.2": (1e-4, 1.0), "mmd2_1": (1e-5, 1.0)}


def write_tables(results: Sequence[Result], folder: Path) -> None:
    """Write ``results.csv``, a row per cell, and ``summary.md``."""
    if not results:
        return
    cells, scores = [field.name for field in fields(Cell)], list(results[0].scores)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*cells, *scores, "seconds"], lineterminator="\n")
    writer.writeheader()
    for result in results:
        row = asdict(result.cell) | result.scores | {"seconds": result.seconds}
        writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})
    write_text(folder / "results.csv", text.getvalue())
    write_text(folder / "summary.md", summary(results))


def summary(results: Sequence[Result]) -> str:
    """Markdown: stable cells of every variant, and then the scores of every cell."""
    scores = [*_COLUMNS.values()]
    variants = _variants(results)
    lines = [
        "A cell is a size of latents and a width of the generator (and a number of features). It is"
        " stable if no seed diverged and its median seed covers all 8 modes. Below: the median seed"
        " of every cell; of these the median, and in brackets the range over cells.",
        "",
        *_head(*_SETTINGS, "stable cells", *scores, "diverged", "s / run"),
    ]
    lines += [_summary_row(grid) for grid in variants.values()]
    lines += ["", "By cell: the median seed, and in brackets the range over seeds."]
    for name, grid in variants.items():
        lines += ["", f"## {name}", "", *_head("cell", *scores, "diverged")]
        for panel, seeds in grid.items():
            ranges = [_median_range((s.scores[n] for s in seeds), _form(n)) for n in _COLUMNS]
            lines.append(_row(_label(panel), *ranges, _diverged(seeds)))
    return "\n".join(lines) + "\n"


def is_stable(seeds: Sequence[Result]) -> bool:
    """Whether a cell is stable: its median seed has all modes, and none diverged."""
    modes = median(seed.scores["modes_covered"] for seed in seeds)
    return modes == _MODES and not any(seed.scores["diverged"] for seed in seeds)


def _summary_row(grid: Grid) -> str:
    cell = _cell(grid)
    runs = [result for seeds in grid.values() for result in seeds]
    counts = sorted({len(seeds) for seeds in grid.values()})
    return _row(
        _NAMES[cell.model],
        f"{cell.dim}-D",
        "" if cell.beta2 is None else f"{cell.beta2:g}",
        cell.regulariser or "",
        f"{cell.iterations:,}",
        " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))),
        f"{sum(map(is_stable, grid.values()))} of {len(grid)}",
        *(_median_range(_medians(grid, name), _form(name)) for name in _COLUMNS),
        _diverged(runs),
        f"{sum(run.seconds for run in runs) / len(runs):.0f}",
    )


def _head(*words: str) -> list[str]:
    return [_row(*words), "|" + "---|" * len(words)]


def _row(*words: str) -> str:
    return f"| {' | '.join(words)} |"


def _diverged(runs: Sequence[Result]) -> str:
    return f"{sum(run.scores['diverged'] for run in runs):.0f} of {len(runs)}"


def _medians(grid: Grid, score: str) -> list[float]:
    return [median(seed.scores[score] for seed in seeds) for seeds in grid.values()]


def _median_range(values: Iterable[float], form: str) -> str:
    """Median and range of what is a number; one that all share stands alone."""
    ordered = sorted(value for value in values if not isnan(value))
    if not ordered:
        return "none"
    low, middle, high = (format(v, form) for v in (ordered[0], median(ordered), ordered[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def _form(score: str) -> str:
    return {"modes_covered": "g", "hq": ".3f"}.get(score, ".4f")


def _label(panel: tuple[int, int, int]) -> str:
    hidden, latent_dim, projection = panel
    label = f"latent {latent_dim}, width {hidden}"
    return label + (f", K {projection}" if projection else "")


def _cell(grid: Grid) -> Cell:
    return next(iter(grid.values()))[0].cell


def _variants(results: Sequence[Result]) -> dict[str, Grid]:
    variants: dict[str, Grid] = {}
    for result in sorted(results, key=lambda r: (r.cell.panel, r.cell.seed)):
        grid = variants.setdefault(result.cell.variant, {})
        grid.setdefault(result.cell.panel, []).append(result)
    return dict(sorted(variants.items(), key=lambda item: _order(*item)))


def _order(name: str, grid: Grid) -> tuple[int, int, int, str]:
    cell = _cell(grid)
    return cell.dim, cell.iterations, list(_NAMES).index(cell.model), name


def draw(results: Sequence[Result], folder: Path) -> None:
    """Draw the samples of every variant, and the scores of all variants with one beta2."""
    variants = _variants(results)
    for name, grid in variants.items():
        _draw_samples(grid, folder / f"{name}.png")
    cells = [result.cell for result in results]
    for dim, iterations in sorted({(cell.dim, cell.iterations) for cell in cells}):
        alike = [g for g in variants.values() if _order("", g)[:2] == (dim, iterations)]
        betas = {beta2 for grid in alike if (beta2 := _cell(grid).beta2) is not None}
        for beta2 in sorted(betas) or [0.0]:
            chosen = [grid for grid in alike if _cell(grid).beta2 in (beta2, None)]
            words = [f"ring{dim}d", f"beta{beta2:g}" if beta2 else "", str(iterations)]
            _draw_scores(chosen, folder / f"scores-{'-'.join(filter(None, words))}.png")


def _draw_samples(grid: Grid, path: Path) -> None:
    """A panel per cell: its median seed's samples on the data, in the plane of the circle."""
    widths = sorted({hidden for hidden, _, _ in grid})
    sizes = sorted({(latent_dim, projection) for _, latent_dim, projection in grid})
    cell = _cell(grid)
    ring = ring_data(cell.dim)
    data = ring.unrotated(ring.test_data[:1000])
    with figure(path, len(widths), len(sizes), (2.5, 2.8)) as axes:
        for row, width in zip(axes, widths, strict=True):
            for panel, size in zip(row, sizes, strict=True):
                panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
                seeds = grid.get((width, *size))
                if seeds is None:
                    panel.set_axis_off()
                    continue
                shown = sorted(seeds, key=_quality)[(len(seeds) - 1) // 2]
                panel.scatter(*data[:, :2].T, s=3, color="tab:blue", linewidths=0)
                points = ring.unrotated(shown.samples)
                panel.scatter(*points[:, :2].T, s=3, color="tab:orange", linewidths=0)
                panel.set_title(_title(seeds), fontsize=8)
                panel.set_xlabel(_label((width, *size)), fontsize=8)
        axes[0, 0].figure.suptitle(_headline(grid), fontsize=min(10, 3 + 2 * len(sizes)))


def _quality(result: Result) -> tuple[float, float]:
    return result.scores["modes_covered"], result.scores["hq"]


def _title(seeds: Sequence[Result]) -> str:
    modes = _median_range((seed.scores["modes_covered"] for seed in seeds), "g")
    hq = _median_range((seed.scores["hq"] for seed in seeds), ".2f")
    diverged = sum(seed.scores["diverged"] for seed in seeds)
    return f"modes {modes}\nhq {hq}" + (f", {diverged:.0f} diverged" if diverged else "")


def _headline(grid: Grid) -> str:
    cell = _cell(grid)
    setting = f"{_legend(cell)}, {cell.dim}-D ring, {cell.iterations:,} iterations"
    seeds = max(map(len, grid.values()))
    return f"{setting}\nthe median of {seeds} seeds, and in brackets their range"


def _legend(cell: Cell) -> str:
    words = [_NAMES[cell.model], cell.regulariser or ""]
    words += [] if cell.beta2 is None else [f"$\\beta_2$ = {cell.beta2:g}"]
    return ", ".join(filter(None, words))


def _draw_scores(grids: Sequence[Grid], path: Path) -> None:
    """A row per score, a column per width; median and range over seeds."""
    widths = sorted({hidden for grid in grids for hidden, _, _ in grid})
    sizes = {(latent_dim, projection) for grid in grids for _, latent_dim, projection in grid}
    axis = 1 if len({latent_dim for latent_dim, _ in sizes}) > 1 else 2
    ticks = sorted({panel[axis] for grid in grids for panel in grid})
    with figure(path, len(_DRAWN), len(widths), (3.4, 1.9)) as axes:
        for row, score in zip(axes, _DRAWN, strict=True):
            row[0].set_ylabel(score)
            for panel, width in zip(row, widths, strict=True):
                for number, grid in enumerate(grids):
                    shift = (number - (len(grids) - 1) / 2) * 0.12
                    cells = [(p[axis], seeds) for p, seeds in grid.items() if p[0] == width]
                    points = [(ticks.index(tick) + shift, seeds) for tick, seeds in cells]
                    _draw_intervals(panel, points, score, _legend(_cell(grid)))
                panel.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
                panel.set_xlim(-0.5, len(ticks) - 0.5)
                limits = _LINEAR | _LOGARITHMIC
                panel.set(ylim=limits[score], yscale="log" if score in _LOGARITHMIC else "linear")
                panel.grid(alpha=0.3)
        for panel, width in zip(axes[0], widths, strict=True):
            panel.set_title(f"width {width}", fontsize=10)
        for panel in axes[-1]:
            panel.set_xlabel(("size of latents", "features K")[axis - 1])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        columns = len(widths)  # As wide as the panels.
        axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def _draw_intervals(
    panel: Any, points: Sequence[tuple[float, list[Result]]], score: str, label: str
) -> None:
    floor = _LOGARITHMIC.get(score, (-1.0, 1.0))[0]
    intervals = []
    for place, seeds in points:
        values = [max(s.scores[score], floor) for s in seeds if not isnan(s.scores[score])]
        if values:
            middle = median(values)
            intervals.append((place, middle, middle - min(values), max(values) - middle))
    places, middles, below, above = zip(*intervals, strict=True) if intervals else [()] * 4
    panel.errorbar(places, middles, (below, above), fmt="o", ms=4, capsize=2, lw=1, label=label)
