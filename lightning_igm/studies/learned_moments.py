"""Do learned moments beat random ones? And how do both compare with a GAN?

The central claim of "Learning Implicit Generative Models with Method of Learned Moments" (Ravuri et
al., NIPS workshop 2017), on the embedded digits::

    python -m lightning_igm.studies.learned_moments --out runs/learned_moments

trains every preset with every seed, two at a time and one thread each, and writes ``summary.md``
and ``curves.png``. Runs that are done are taken as they are; one that was stopped goes on.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Curve", "main", "read_curve", "summary"]

PRESETS = {
    "learned moments": "configs/molm/digits.yaml",
    "random moments": "configs/molm/digits_random.yaml",
    "GAN": "configs/gan/digits.yaml",
}


class Curve(NamedTuple):
    """FID of one run."""

    steps: npt.NDArray[np.float64]
    """Generator steps ``(T,)`` of the evaluations."""
    fid: npt.NDArray[np.float64]
    """``(T,)``."""
    seconds: float
    """Processor time of the whole run, evaluations and start included."""

    def plateau(self) -> float:
        """Mean FID over the last fifth of the evaluations."""
        return float(self.fid[-max(1, len(self.fid) // 5) :].mean())

    def at(self, seconds: float) -> float:
        """FID at a processor time, taken to be proportional to the steps."""
        return float(np.interp(seconds, self.steps / self.steps[-1] * self.seconds, self.fid))


def train(preset: str, seed: int, folder: Path, extra: Sequence[str]) -> None:
    """Train a preset in a process of its own, unless that is done; note its processor time."""
    times = folder / "seconds.txt"
    if times.exists():
        return
    command = [sys.executable, "-m", "lightning_igm", "fit", "--config", preset]
    command += [f"--run.dir={folder}", "--ckpt_path=last", f"--seed_everything={seed}"]
    command += ["--trainer.enable_progress_bar=false", *extra]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"{preset} with seed {seed} failed; see {folder / 'log.txt'}")
    times.write_text(f"{usage.ru_utime + usage.ru_stime:.1f}\n")


def read_curve(folder: Path) -> Curve:
    """The FIDs of a finished run.

    Raises:
        FileNotFoundError: It is not finished.
    """
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [(float(r["step"]), float(r["fid"])) for r in csv.DictReader(file) if r["fid"]]
    steps, fid = np.array(rows).T
    return Curve(steps, fid, float((folder / "seconds.txt").read_text()))


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


def draw(curves: dict[str, list[Curve]], path: Path) -> None:
    """FID against generator steps, the mean and the range over seeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, runs in curves.items():
        fid = np.stack([run.fid for run in runs])
        (line,) = axes.plot(runs[0].steps, fid.mean(0), label=name)
        axes.fill_between(runs[0].steps, fid.min(0), fid.max(0), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="generator steps", ylabel="FID (digit classifier)", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
    with ThreadPoolExecutor(known.processes) as pool:
        jobs = [
            pool.submit(train, PRESETS[name], seed, folder, extra)
            for position, seed in enumerate(known.seeds)
            for name, folder in ((name, folders[position]) for name, folders in runs.items())
        ]
        for job in jobs:
            job.result()
    curves = {name: [read_curve(folder) for folder in folders] for name, folders in runs.items()}
    table = summary(curves)
    (known.out / "summary.md").write_text(table)
    draw(curves, known.out / "curves.png")
    return table


if __name__ == "__main__":
    print(main())
