"""What the studies of trained presets share: runs in processes of their own, and their curves."""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Curve", "draw", "read_curve", "train_all"]

_DIVERGED = "is not finite at generator step"


class Curve(NamedTuple):
    """A score of one run."""

    steps: npt.NDArray[np.float64]
    """Generator steps ``(T,)`` of the evaluations."""
    score: npt.NDArray[np.float64]
    """``(T,)``."""
    seconds: float
    """Processor time of the whole run, evaluations and start included."""

    def plateau(self) -> float:
        """Mean score over the last fifth of the evaluations."""
        return float(self.score[-max(1, len(self.score) // 5) :].mean())

    def at_step(self, step: float) -> float:
        """Score at a generator step."""
        return float(np.interp(step, self.steps, self.score))

    def at(self, seconds: float) -> float:
        """Score at a processor time, taken to be proportional to the steps."""
        return self.at_step(seconds / self.seconds * self.steps[-1])


def train_all(
    runs: Mapping[Path, tuple[str, int]], extra: Sequence[str], processes: int = 2
) -> list[Path]:
    """Train presets, in the order given, unless they are done; note their processor times.

    Args:
        runs: Preset and seed of each run's folder.
        extra: More arguments of ``igm fit``, for all of them.
        processes: Runs at a time, a thread each.

    Returns:
        Folders of the runs that a loss that is not finite stopped.

    Raises:
        RuntimeError: A run failed for another reason.
    """
    with ThreadPoolExecutor(processes) as pool:
        jobs = [pool.submit(_train, *run, folder, extra) for folder, run in runs.items()]
        finished = [job.result() for job in jobs]
    return [folder for folder, sound in zip(runs, finished, strict=True) if not sound]


def _train(preset: str, seed: int, folder: Path, extra: Sequence[str]) -> bool:
    """Train one; whether all its losses were finite."""
    times, log = folder / "seconds.txt", folder / "log.txt"
    if not times.exists():
        command = [sys.executable, "-m", "lightning_igm", "fit", "--config", preset]
        command += [f"--run.dir={folder}", "--ckpt_path=last", f"--seed_everything={seed}"]
        command += ["--trainer.enable_progress_bar=false", *extra]
        folder.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status and _DIVERGED not in log.read_text():
            raise RuntimeError(f"{preset} with seed {seed} failed; see {log}")
        times.write_text(f"{usage.ru_utime + usage.ru_stime:.1f}\n")
    return _DIVERGED not in log.read_text()


def read_curve(folder: Path, name: str = "fid") -> Curve:
    """A score of a finished run, at every evaluation.

    Args:
        folder: The run's.
        name: Column of its ``metrics.csv``.

    Raises:
        FileNotFoundError: It is not finished.
    """
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [(float(r["step"]), float(r[name])) for r in csv.DictReader(file) if r.get(name)]
    steps, score = np.array(rows).reshape(-1, 2).T
    return Curve(steps, score, float((folder / "seconds.txt").read_text()))


def draw(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """FID against generator steps, the mean and the range over seeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for position, (name, runs) in enumerate(curves.items()):
        fid = np.stack([run.score for run in runs])
        style = ("-", "--", ":")[position // 10 % 3]
        (line,) = axes.plot(runs[0].steps, fid.mean(0), style, label=name)
        axes.fill_between(runs[0].steps, fid.min(0), fid.max(0), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="generator steps", ylabel="FID (digit classifier)", yscale="log")
    if len(curves) > 6:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
