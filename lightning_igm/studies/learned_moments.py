"""Do learned moments beat random ones? And how do both compare with a GAN?

The central claim of "Learning Implicit Generative Models with Method of Learned Moments" (Ravuri et
al., NIPS workshop 2017), on the embedded digits::

    python -m lightning_igm.studies.learned_moments --out runs/learned_moments

trains every preset with every seed, two at a time and one thread each, and writes ``summary.md``
and ``curves.png``. Finished runs are kept; a stopped run resumes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_igm.runs.compare import Curve, draw
from lightning_igm.studies._figure import console
from lightning_igm.studies._runs import read_timed_curve, train_all

__all__ = ["main", "summary"]

PRESETS = {
    "learned moments": "molm/digits",
    "random moments": "molm/digits_random",
    "GAN": "gan/digits",
}


def summary(curves: dict[str, list[Curve]]) -> str:
    """A Markdown table: mean and standard deviation over seeds, and the ratio to random moments."""
    time = min(curve.seconds for runs in curves.values() for curve in runs)
    lines = [
        f"| | seeds | FID at the plateau | FID after {time:.0f} s | steps | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in curves.items():
        plateau = np.array([run.plateau() for run in runs])
        equal_time = np.array([run.at(time) for run in runs])
        seconds = np.mean([run.seconds for run in runs])
        lines.append(
            f"| {name} | {len(runs)} | {plateau.mean():.2f} ± {plateau.std(ddof=1):.2f} | "
            f"{equal_time.mean():.2f} ± {equal_time.std(ddof=1):.2f} | "
            f"{runs[0].steps[-1]:,.0f} | {seconds:.0f} |"
        )
    learned, random = (curves[name] for name in ("learned moments", "random moments"))
    plateau_ratio = np.mean([c.plateau() for c in learned]) / np.mean([c.plateau() for c in random])
    time_ratio = np.mean([c.at(time) for c in learned]) / np.mean([c.at(time) for c in random])
    lines += [
        "",
        f"Learned over random moments: {plateau_ratio:.2f} at the plateau (equal steps), "
        f"{time_ratio:.2f} at equal processor time.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> str:
    """Train what is not trained yet, and write the table and the figure.

    Returns:
        The table.
    """
    parser = argparse.ArgumentParser(prog="learned_moments", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learned_moments"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    known, extra = parser.parse_known_args(arguments)
    runs = {
        name: [known.out / f"{name.replace(' ', '_')}-{seed}" for seed in known.seeds]
        for name in PRESETS
    }
    jobs = {
        folders[position]: ["--config", PRESETS[name], f"--seed_everything={seed}", *extra]
        for position, seed in enumerate(known.seeds)
        for name, folders in runs.items()
    }
    if diverged := train_all(jobs, known.processes):
        raise RuntimeError(f"a loss was not finite; see {diverged[0] / 'log.txt'}")
    curves = {
        name: [read_timed_curve(folder) for folder in folders] for name, folders in runs.items()
    }
    table = summary(curves)
    (known.out / "summary.md").write_text(table)
    draw({"fid": curves}, known.out / "curves.png")
    return table


if __name__ == "__main__":
    console(main, "learned_moments")
