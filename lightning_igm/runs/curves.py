"""Scores of runs, read from their files."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_igm.metrics.score import score_classes
from lightning_igm.runs.folder import CONFIG, METRICS, SCORE_FILE

__all__ = [
    "SCORES",
    "Curve",
    "Stage",
    "column",
    "known",
    "read_columns",
    "read_curve",
    "read_final",
    "settings_of",
]

Stage = Literal["fit", "validate", "test"]

SCORES = tuple(name for kind in score_classes().values() for name in kind.shown())
"""Scores that are compared by default, where the runs have them."""


_UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, OSError),
    *(csv.Error, YAMLError, OmegaConfBaseException),
)


class Curve(NamedTuple):
    """A score of one run."""

    steps: npt.NDArray[np.float64]
    """Generator steps ``(T,)`` of the evaluations."""
    score: npt.NDArray[np.float64]
    """``(T,)``."""
    seconds: float = float("nan")
    """Processor time of the whole run, if it is known."""

    def plateau(self) -> float:
        """Mean score over the last fifth of the evaluations."""
        return float(self.score[-max(1, len(self.score) // 5) :].mean())

    def at_step(self, step: float) -> float:
        """Score at a generator step, linear between evaluations."""
        return float(np.interp(step, self.steps, self.score))

    def at(self, seconds: float) -> float:
        """Score at a processor time, taken to be proportional to the steps."""
        return self.at_step(seconds / self.seconds * self.steps[-1])


def read_curve(folder: Path, name: str = "fid") -> Curve:
    """A score of a run, at every evaluation.

    Args:
        folder: The run's.
        name: Column of its ``metrics.csv``.

    Raises:
        ValueError: The folder holds no run, or the run has no such score.
    """
    return column(read_columns(folder), name, folder / METRICS)


def read_final(folders: Sequence[Path], stage: Stage) -> dict[Path, dict[str, Curve]]:
    """The last scores of a stage of runs that were scored alike, by run and name.

    Args:
        folders: The runs'.
        stage: ``validate`` or ``test``.

    Raises:
        ValueError: A run has no such scores, or was not scored like the first.
    """
    columns: dict[Path, dict[str, Curve]] = {}
    protocol: dict[str, Any] | None = None
    for folder in folders:
        path = folder / SCORE_FILE
        with _naming(path):
            entries = json.loads(path.read_text()) if path.is_file() else []
            mine = [
                (entry, dict(entry["protocol"])) for entry in entries if entry["stage"] == stage
            ]
        if not mine:
            raise ValueError(f"{folder}: no scores of {stage} in {SCORE_FILE}; run igm {stage}")
        entry, own = mine[-1]
        protocol = protocol or own
        for name in sorted({*protocol, *own} - {"weights"}):
            value = own.get(name)
            if value != protocol.get(name):
                raise ValueError(
                    f"{folder}: {name} was {value!r}, and {protocol.get(name)!r} in {folders[0]}; "
                    "only runs that were scored alike can be compared"
                )
        with _naming(path):
            step = np.array([float(entry["step"])])
            columns[folder] = {
                name: Curve(step, np.array([float("nan" if entry[name] is None else entry[name])]))
                for name in SCORES
                if name in entry
            }
    return columns


def settings_of(folder: Path) -> str:
    """The configuration of a run, but for its seed and its folder."""
    path = folder / CONFIG
    if not path.is_file():
        return str(folder)
    with _naming(path):
        config: Any = OmegaConf.load(path)
        for key in ("seed_everything", "run"):
            config.pop(key, None)
        if config.get("trainer"):
            config.trainer.pop("default_root_dir", None)
        return OmegaConf.to_yaml(config, sort_keys=True)


def read_columns(folder: Path) -> dict[str, Curve]:
    """Everything in a run's ``metrics.csv``, by name."""
    path = folder / METRICS
    if not path.is_file():
        if (folder / CONFIG).is_file():  # Of a run that has logged nothing so far.
            return {}
        raise ValueError(f"{folder}: no run is there; {METRICS} is missing")
    columns = {}
    with _naming(path), path.open(newline="") as file:
        rows = list(csv.DictReader(file))
        for name in rows[0] if rows else ():
            points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
            if points and name != "step":
                columns[name] = Curve(*np.array(points).T)
    return columns


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file cannot be read: an error of the body shows as one line with its name."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: it is not what a run writes ({reason})") from error


def column(columns: Mapping[str, Curve], name: str, file: Path) -> Curve:
    """One score of those in a file.

    Raises:
        ValueError: It is not there.
    """
    if name not in columns:
        raise ValueError(f"{file.parent}: no score {name!r}; its {file.name} has {known(columns)}")
    return columns[name]


def known(columns: Mapping[str, Curve]) -> str:
    """Names of the scores, for a message."""
    return ", ".join(sorted(set(columns) - {"step"})) or "none yet"
