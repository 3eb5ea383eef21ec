"""Cells of the ring study: their settings, their files, and how they are trained."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_igm.data import RingDataModule
from lightning_igm.files import replacing
from lightning_igm.metrics.modes import ModeReference

__all__ = ["Cell", "Result", "ensembles", "read_results", "ring_data", "train", "write_text"]

SCORED_SAMPLES = 10_000
DRAWN_SAMPLES = 1_000
ADAM_MODELS = ("gramnet", "gan", "mmdgan")
PROJECTING_MODELS = ("gramnet", "mmdgan")


@dataclass(frozen=True)
class Cell:
    """Settings of one run; those that its model does not have are None."""

    model: str
    dim: int
    latent_dim: int
    hidden: int
    projection: int | None
    beta2: float | None
    regulariser: str | None
    iterations: int
    seed: int

    def relevant(self) -> "Cell":
        """The cell without the settings that its model does not have."""
        return replace(
            self,
            projection=self.projection if self.model in PROJECTING_MODELS else None,
            beta2=self.beta2 if self.model in ADAM_MODELS else None,
            regulariser=self.regulariser if self.model == "gramnet" else None,
        )

    @property
    def shape(self) -> "Cell":
        """Settings that the members of an ensemble share; the rest is blank."""
        return replace(self, beta2=None, regulariser=None, seed=0)

    @property
    def variant(self) -> str:
        """Name of the settings that the panels of one picture share."""
        words = [self.model, f"ring{self.dim}d"]
        words += [f"beta{self.beta2}"] if self.beta2 is not None else []
        words += [self.regulariser] if self.regulariser is not None else []
        return "-".join([*words, str(self.iterations)])

    @property
    def panel(self) -> tuple[int, int, int]:
        """Place in that picture: hidden width; latent and projected dimensions."""
        return self.hidden, self.latent_dim, self.projection or 0

    @property
    def name(self) -> str:
        """Name of its file."""
        sizes = f"z{self.latent_dim}-h{self.hidden}" + (
            f"-k{self.projection}" if self.projection is not None else ""
        )
        return f"{self.variant}-{sizes}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """Scores and samples of a cell's run."""

    cell: Cell
    scores: dict[str, float]
    seconds: float
    """Processor time of its training and scores: the ensemble's, shared equally."""
    samples: Tensor
    """``(1000, dim)``; not finite where the generator's are not."""


def ensembles(cells: Iterable[Cell], done: Path) -> list[list[Cell]]:
    """Cells that have no file yet, in lists of one network shape; the longest to train first."""
    groups: dict[Cell, list[Cell]] = {}
    for cell in dict.fromkeys(cell.relevant() for cell in cells):
        if not _file(done, cell).exists():
            groups.setdefault(cell.shape, []).append(cell)
    return sorted(groups.values(), key=_expense, reverse=True)


def _expense(cells: Sequence[Cell]) -> tuple[int, int]:
    """Order of magnitude of the time that an ensemble takes."""
    costs = {"mmdgan": 6, "gramnet": 2}
    return len(cells) * cells[0].iterations * costs.get(cells[0].model, 1), cells[0].hidden


def ring_data(dim: int) -> RingDataModule:
    """The data of the study, loaded."""
    ring = RingDataModule(dim=dim)
    ring.setup()
    return ring


def train(cells: Sequence[Cell], folder: Path) -> None:
    """Train the members of an ensemble, and write their files.

    Args:
        cells: Of one shape.
        folder: Where the files go; each appears complete or not at all.
    """
    from lightning_igm.studies.ring.models import MODELS, batches

    started = time.process_time()
    first = cells[0]
    ring = ring_data(first.dim)
    ensemble = MODELS[first.model](cells)
    finite = torch.ones(len(cells), dtype=torch.bool)
    for _, batch in zip(range(first.iterations), batches(ensemble, ring.train_data), strict=False):
        finite &= ensemble.step(*batch).isfinite().all(0)
    finite &= ensemble.finite()
    samples = ensemble.samples(SCORED_SAMPLES)
    reference = ModeReference(ring.test_data, ring.centres, ring.unrotated)
    scores = [reference.scores(points) for points in samples]
    seconds = (time.process_time() - started) / len(cells)
    for cell, own, points, sound in zip(cells, scores, samples, finite.tolist(), strict=True):
        own["diverged"] = max(own["diverged"], float(not sound))
        _write(folder, Result(cell, own, seconds, points[:DRAWN_SAMPLES]))


def read_results(folder: Path) -> list[Result]:
    """All results in a folder, in the order of their settings."""
    results = []
    for path in folder.glob("*.json"):
        try:
            record = json.loads(path.read_text())
            cell = Cell(**{field.name: record["cell"][field.name] for field in fields(Cell)})
            samples = torch.tensor(record["samples"])
            results.append(Result(cell, record["scores"], record["seconds"], samples))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"out: {path} is damaged, or no result of this study; remove it and start again"
            ) from error
    return sorted(results, key=lambda result: _order(result.cell))


def _order(cell: Cell) -> list[tuple[bool, Any]]:
    return [(value is not None, value) for value in astuple(cell)]


def _file(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.json"


def _write(folder: Path, result: Result) -> None:
    record = {
        "cell": asdict(result.cell),
        "scores": result.scores,
        "seconds": result.seconds,
        # In float64, where a number with four decimals prints as such.
        "samples": result.samples.double().round(decimals=4).tolist(),
    }
    write_text(_file(folder, result.cell), json.dumps(record))


def write_text(path: Path, text: str) -> None:
    """Write a file so that whoever reads it at any time sees the old or the new one."""
    with replacing(path) as file:
        file.write(text)
