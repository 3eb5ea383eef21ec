"""Every method on the embedded digits, at equal generator steps and at equal processor time.

::

    python -m lightning_igm.studies.digits --out runs/digits

trains the digits preset of every method with every seed, two runs at a time and one thread each,
and writes ``summary.md``, ``scores.csv`` (all scores of all runs) and ``curves.png``. Runs that are
done are taken as they are; one that was stopped goes on.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_igm.compare import Curve, draw, interval
from lightning_igm.studies._runs import read_timed_curve, train_all

__all__ = ["METHODS", "Run", "main", "summary"]

METHODS = {
    "MoLM": "molm/digits",
    "random moments": "molm/digits_random",
    "SN-SMMDGAN": "smmdgan/sn_digits",
    "SMMDGAN": "smmdgan/digits",
    "SN-SWGAN": "swgan/sn_digits",
    "SWGAN": "swgan/digits",
    "GCMMDGAN": "gcmmdgan/digits",
    "MMDGAN-GP-L2": "mmdgan/digits",
    "SN-MMDGAN": "mmdgan/sn_digits",
    "MMDGAN": "mmdgan/plain_digits",
    "SN-GAN": "sngan/digits",
    "WGAN-GP": "wgangp/digits",
    "Sobolev GAN": "sobolevgan/digits",
    "Cramér GAN": "cramergan/digits",
    "GAN": "gan/digits",
}
"""Preset of each method."""


class Run(NamedTuple):
    """A run that went to its end."""

    fid: Curve
    kid: Curve
    condition: Curve
    """Largest condition number of the critic's layers."""


def summary(methods: Mapping[str, Sequence[Run | None]]) -> str:
    """A Markdown table: mean, standard deviation and range over the seeds.

    Args:
        methods: Runs of each method; None for one that a loss that is not finite stopped.
    """
    sound = {name: [run for run in runs if run] for name, runs in methods.items()}
    everything = [run for runs in sound.values() for run in runs]
    step = min(run.fid.steps[-1] for run in everything)
    time = min(run.fid.seconds for run in everything)
    lines = [
        f"| | FID after {step:,.0f} steps | FID after {time:.0f} s | 1000 KID, {step:,.0f} steps | "
        "s per 1,000 steps | largest condition number | diverged |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in sorted(sound.items(), key=lambda item: _mean_fid(item[1], step)):
        cells = ["-"] * 5
        if runs:
            cells = [
                interval([run.fid.at_step(step) for run in runs]),
                interval([run.fid.at(time) for run in runs]),
                interval([1000 * run.kid.at_step(step) for run in runs]),
                f"{np.mean([1000 * run.fid.seconds / run.fid.steps[-1] for run in runs]):.0f}",
                f"{max(run.condition.score.max() for run in runs):.1f}",
            ]
        diverged = len(methods[name]) - len(runs)
        lines.append(f"| {name} | {' | '.join(cells)} | {diverged} of {len(methods[name])} |")
    return "\n".join(lines) + "\n"


def _mean_fid(runs: Sequence[Run], step: float) -> float:
    return float(np.mean([run.fid.at_step(step) for run in runs])) if runs else np.inf


def _write_scores(methods: Mapping[str, Sequence[Run | None]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "run", "generator_step", "fid", "kid", "seconds_of_run"])
        for name, runs in methods.items():
            for number, run in enumerate(runs):
                if run:
                    rows = zip(run.fid.steps, run.fid.score, run.kid.score, strict=True)
                    writer.writerows([name, number, *row, run.fid.seconds] for row in rows)


def main(arguments: Sequence[str] | None = None) -> str:
    """Train what is not trained yet, and write the tables and the figure.

    Returns:
        The table.
    """
    parser = argparse.ArgumentParser(
        prog="digits",
        description=f"{str(__doc__).splitlines()[0]} Other arguments go to igm fit.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    known, extra = parser.parse_known_args(arguments)
    folders = {
        (name, seed): known.out / f"{name.replace(' ', '_')}-{seed}"
        for seed in known.seeds
        for name in known.methods
    }
    jobs = {
        folder: (f"configs/{METHODS[name]}.yaml", seed) for (name, seed), folder in folders.items()
    }
    watch = ["--trainer.callbacks+=CriticSpectrum", "--trainer.callbacks.every_n_steps=100"]
    diverged = train_all(jobs, [*watch, *extra], known.processes)
    names = ("fid", "kid", "critic_condition_number")
    methods: dict[str, list[Run | None]] = {name: [] for name in known.methods}
    for (name, _), folder in folders.items():
        sound = folder not in diverged
        methods[name].append(Run(*(read_timed_curve(folder, n) for n in names)) if sound else None)
    table = summary(methods)
    (known.out / "summary.md").write_text(table)
    _write_scores(methods, known.out / "scores.csv")
    sound_runs = {name: [r.fid for r in runs if r] for name, runs in methods.items()}
    drawn = {name: runs for name, runs in sound_runs.items() if runs}
    draw({"fid": drawn}, known.out / "curves.png")
    return table


if __name__ == "__main__":
    print(main())
