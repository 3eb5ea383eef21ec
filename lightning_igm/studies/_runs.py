"""What the studies of trained presets share: runs in processes of their own, and their scores."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_igm.compare import Curve, read_curve

__all__ = ["read_timed_curve", "train_all"]

_DIVERGED = "is not finite at generator step"


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


def read_timed_curve(folder: Path, name: str = "fid") -> Curve:
    """A score of a finished run, with the run's processor time, start and evaluations included.

    Args:
        folder: The run's.
        name: Column of its ``metrics.csv``.

    Raises:
        FileNotFoundError: It is not finished.
    """
    seconds = float((folder / "seconds.txt").read_text())
    return read_curve(folder, name)._replace(seconds=seconds)
