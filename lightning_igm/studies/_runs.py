"""Helpers of the studies that train presets: runs in separate processes, and their scores."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_igm.runs.compare import Curve, read_curve
from lightning_igm.runs.folder import CONFIG, SCORE_FILE

__all__ = ["read_timed_curve", "score_all", "train_all"]

_DIVERGED = "is not finite at generator step"


def train_all(runs: Mapping[Path, Sequence[str]], processes: int = 2) -> list[Path]:
    """Train presets, in the order given, unless they are done; note their processor times.

    Args:
        runs: Arguments of ``igm fit`` by each run's folder.
        processes: Runs at a time, a thread each.

    Returns:
        Folders of the runs that a loss that is not finite stopped.

    Raises:
        RuntimeError: A run failed for another reason.
    """
    with ThreadPoolExecutor(processes) as pool:
        jobs = [pool.submit(_train, folder, words) for folder, words in runs.items()]
        finished = [job.result() for job in jobs]
    return [folder for folder, sound in zip(runs, finished, strict=True) if not sound]


def score_all(folders: Sequence[Path], scores: Sequence[str], processes: int = 2) -> None:
    """Score runs by ``igm validate``, unless they are.

    Args:
        folders: The runs'.
        scores: Names of scores.
        processes: Runs at a time, a thread each.

    Raises:
        RuntimeError: A run cannot be scored.
    """
    todo = [folder for folder in folders if not (folder / SCORE_FILE).exists()]
    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(lambda folder: _score(folder, scores), todo))


def _score(folder: Path, scores: Sequence[str]) -> None:
    arguments = ["validate", f"--config={folder / CONFIG}", f"--run.dir={folder}"]
    arguments += ["--ckpt_path=last", f"--metrics.scores=[{','.join(scores)}]"]
    if _igm(arguments, folder / "log.txt")[0]:
        raise RuntimeError(f"{folder} cannot be scored; see {folder / 'log.txt'}")


def _igm(arguments: Sequence[str], log: Path) -> tuple[int, float]:
    """Exit status and processor time of a command, run with one thread."""
    command = [sys.executable, "-m", "lightning_igm", *arguments]
    with log.open("a") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _train(folder: Path, words: Sequence[str]) -> bool:
    """Train one run; return whether all its losses were finite."""
    times, legs, log = (folder / f"{name}.txt" for name in ("seconds", "legs", "log"))
    if not times.exists():
        arguments = ["fit", *words, f"--run.dir={folder}", "--ckpt_path=last"]
        folder.mkdir(parents=True, exist_ok=True)
        status, seconds = _igm([*arguments, "--trainer.enable_progress_bar=false"], log)
        with legs.open("a") as file:  # A stopped run resumes in another process.
            file.write(f"{seconds:.1f}\n")
        if status and _DIVERGED not in log.read_text():
            raise RuntimeError(f"igm fit {' '.join(words)} failed; see {log}")
        times.write_text(f"{sum(map(float, legs.read_text().split())):.1f}\n")
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
