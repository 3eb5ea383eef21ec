"""Stability of GRAM-net, MMD-GAN, MMD-net and a GAN on a ring of eight Gaussians.

The stability study of "Generative Ratio Matching Networks" (Srivastava, Xu, Gutmann and Sutton,
ICLR 2020, https://openreview.net/forum?id=SJg7spEYDS) with scores, seeds and intervals::

    python -m lightning_igm.studies.ring grid --out runs/ring

trains every model with every latent size, generator width and seed, all seeds of one network shape
at once. A finished run is never repeated; one that was killed is, with the other seeds of its
shape. ``results.csv`` has a row per run, ``summary.md`` the stable cells and all scores; pictures
show the samples of every cell and the scores with their ranges over seeds. Other studies::

    python -m lightning_igm.studies.ring projection-size   # the same, by dimensions of f's features
    python -m lightning_igm.studies.ring projection        # the tilted ring, projected: a film
    python -m lightning_igm.studies.ring trace             # L_g and D* of Eq. 5 by iteration

Each writes to its own folder below ``--out``, in files named after its settings.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby, product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightning_igm.files import LOCK
from lightning_igm.studies.ring.cells import Cell, ensembles, read_results
from lightning_igm.studies.ring.models import MODELS
from lightning_igm.studies.ring.report import draw, write_tables
from lightning_igm.studies.ring.workers import one_thread, train_all

__all__ = ["grid", "main"]


def grid(
    models: Sequence[str],
    dims: Sequence[int],
    latent_dims: Sequence[int],
    hidden: Sequence[int],
    projections: Sequence[int],
    betas: Sequence[float],
    regularisers: Sequence[str],
    seeds: Sequence[int],
    iterations: int,
) -> list[Cell]:
    """Cells of all combinations, each once: a model ignores what it does not have."""
    axes = product(models, dims, latent_dims, hidden, projections, betas, regularisers)
    cells = [Cell(*axis, iterations, seed).relevant() for axis in axes for seed in seeds]
    return list(dict.fromkeys(cells))


def run(cells: Sequence[Cell], folder: Path, processes: int) -> None:
    """Train all cells that have no file yet, write the tables as they come, and the pictures."""
    todo = ensembles(cells, folder / "cells")
    members = sum(map(len, todo))
    _say(f"{len(cells) - members} runs are done, {members} to train, in {len(todo)} ensembles")
    for number, group in enumerate(train_all(todo, folder / "cells", processes), start=1):
        results = read_results(folder / "cells")
        seconds = sum(r.seconds for r in results if r.cell in group)
        _say(f"{number}/{len(todo)}  {group[0].name} and its ensemble: {seconds:.0f} s")
        write_tables(results, folder)
    results = read_results(folder / "cells")
    write_tables(results, folder)
    draw(results, folder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- the command line -----------------------------------------------------------------------------


def _grid(o: argparse.Namespace, folder: Path) -> None:
    axes = o.models, o.dims, o.latent_dims, o.hidden, o.projections, o.betas, o.regularisers
    run(grid(*axes, o.seeds, o.iterations), folder, o.processes)


def _projection(o: argparse.Namespace, folder: Path) -> None:
    from lightning_igm.studies.ring.films import draw_projection, record_projection

    for cell in _gramnets(o, [3], [2]):
        with one_thread():
            film = record_projection(cell, folder / f"{cell.name}.pt")
        draw_projection(film, folder / f"{cell.name}.png")


def _trace(o: argparse.Namespace, folder: Path) -> None:
    from lightning_igm.studies.ring.films import draw_trace, record_trace

    for _, group in groupby(_gramnets(o, o.dims, [10]), lambda cell: cell.variant):
        cells = list(group)
        seeds = "_".join(str(cell.seed) for cell in cells)
        path = folder / f"{cells[0].variant}-seeds{seeds}.csv"
        with one_thread():
            record_trace(cells, path)
        draw_trace(path)


def _gramnets(o: argparse.Namespace, dims: list[int], projections: list[int]) -> list[Cell]:
    sizes = [20], [100], projections
    return grid(["gramnet"], dims, *sizes, o.betas, o.regularisers, o.seeds, o.iterations)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {least} or more")
        return int(text)

    return number


def _decay(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be between 0 and 1")
    return value


_OPTIONS: dict[str, dict[str, Any]] = {
    "models": {
        "nargs": "+",
        "choices": list(MODELS),
        "metavar": "M",
        "help": f"of {', '.join(MODELS)}",
    },
    "dims": {
        "nargs": "+",
        "type": int,
        "choices": [2, 3],
        "metavar": "N",
        "help": "2, 3 or both: the ring's dimensions",
    },
    "latent-dims": {
        "nargs": "+",
        "type": _at_least(1),
        "metavar": "N",
        "help": "sizes of a latent",
    },
    "hidden": {
        "nargs": "+",
        "type": _at_least(1),
        "metavar": "N",
        "help": "widths of the generator's layers",
    },
    "projections": {
        "nargs": "+",
        "type": _at_least(1),
        "metavar": "N",
        "help": "features of GRAM-net's projector and MMD-GAN's encoder",
    },
    "betas": {
        "nargs": "+",
        "type": _decay,
        "metavar": "B",
        "help": "beta2 of Adam; 0.0999 in the paper's runs",
    },
    "regularisers": {
        "nargs": "+",
        "choices": ["mean", "clip"],
        "metavar": "R",
        "help": "mean, clip or both",
    },
    "seeds": {"nargs": "+", "type": _at_least(0), "metavar": "N", "help": "one run for each"},
    "iterations": {"type": _at_least(1), "metavar": "N", "help": "generator steps"},
    "processes": {
        "type": _at_least(1),
        "metavar": "N",
        "help": "ensembles at a time, of one thread each",
    },
    "out": {"type": Path, "metavar": "FOLDER", "help": "each study has a folder in it"},
}
_COMMON = {
    "betas": [0.999],
    "regularisers": ["mean"],
    "seeds": [0, 1, 2, 3, 4],
    "iterations": 10_500,
    "out": Path("runs/ring"),
}
_GRID = {"models": list(MODELS), "dims": [2], "latent-dims": [2, 4, 8, 16]}
_GRID |= {"hidden": [20, 100, 200], "projections": [10], **_COMMON, "processes": 2}
_BY_PROJECTION = {"models": ["gramnet", "mmdgan"], "dims": [2, 3], "latent-dims": [20]}
_BY_PROJECTION |= {"hidden": [100], "projections": [2, 4, 8, 16]}

_Study = tuple[Callable[[argparse.Namespace, Path], None], str, dict[str, Any]]
_STUDIES: dict[str, _Study] = {
    "grid": (_grid, "the models by latent size and width of the generator", _GRID),
    "projection-size": (
        _grid,
        "GRAM-net and MMD-GAN by number of features",
        _GRID | _BY_PROJECTION,
    ),
    "projection": (
        _projection,
        "what GRAM-net's projector makes of the tilted ring: four frames and a film",
        _COMMON | {"seeds": [0]},
    ),
    "trace": (
        _trace,
        "GRAM-net's generator loss and its D* (Eq. 5) by iteration",
        {"dims": [2], **_COMMON, "iterations": 5_000},
    ),
}


def _parser() -> argparse.ArgumentParser:
    title, _, text = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m lightning_igm.studies.ring",
        description=f"{title}\n\n{text}".replace("::", ":").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="STUDY --help shows its options.",
    )
    studies = parser.add_subparsers(dest="study", metavar="STUDY", required=True)
    for name, (_, purpose, defaults) in _STUDIES.items():
        study = studies.add_parser(
            name, help=purpose, description=purpose, usage=f"{parser.prog} {name} [options]"
        )
        for option, default in defaults.items():
            settings = _OPTIONS[option]
            values = default if isinstance(default, list) else [default]
            text = f"{settings['help']} (default: {' '.join(map(str, values))})"
            study.add_argument(f"--{option}", default=default, **settings | {"help": text})
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study, or what is left of it.

    Raises:
        ValueError: Another process is at the same study in the same folder, or a worker is gone.
    """
    options = _parser().parse_args(arguments)
    study, folder = _STUDIES[options.study][0], options.out / options.study
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            study(options, folder)
    except BrokenProcessPool:
        raise ValueError(
            "a process was killed, or its memory was full; what is done is kept: start again, with "
            "fewer --processes perhaps"
        ) from None
    except Timeout:
        raise ValueError(
            f"out: {folder} is in use by another process; wait for it, or choose another folder"
        ) from None
