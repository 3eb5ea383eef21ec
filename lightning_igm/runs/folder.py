"""A run's folder: its name, config and metrics. One run, one folder; nothing is overwritten."""

import csv
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_igm.distributed import world_size
from lightning_igm.files import LOCK, remove_unfinished, replacing
from lightning_igm.runs.wandb import log_config, remember_id

__all__ = [
    "MetricsCSV",
    "SaveRunConfig",
    "check_began_only",
    "check_no_run",
    "choose_run_folder",
    "exclusive",
    "tensorboard_logger",
]

CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.csv", "checkpoints"
SCORE_FILE = "scores.json"
_SHARED = "IGM_RUN_DIR"


def choose_run_folder(root: str | Path, config: str | Path | None) -> Path:
    """Name a fresh folder ``<root>/<preset>-<time>-<random>``, the preset by its last two names.

    The processes that a strategy launches take the folder that the first one chose.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        if _SHARED not in os.environ:
            raise ValueError(
                "run.dir: not given; with an external launcher of processes it must be"
            )
        return Path(os.environ[_SHARED])
    path = Path(config) if config else Path("run.yaml")
    parent = path.parent.name if path.parent.name not in ("", "configs") else ""
    words = (parent, path.stem, time.strftime("%Y%m%d-%H%M%S"), secrets.token_hex(2))
    folder = Path(root) / "-".join(filter(None, words))
    os.environ[_SHARED] = str(folder)
    return folder


def check_no_run(folder: Path) -> None:
    """Check that no run has written into a folder.

    Raises:
        ValueError: One has.
    """
    if any((folder / name).exists() for name in (CONFIG, METRICS, f"{CHECKPOINTS}/last.ckpt")):
        raise ValueError(
            f"run.dir: '{folder}' already holds a run; continue it with --ckpt_path last, or "
            "choose another folder"
        )


def check_began_only(folder: Path, every_n_steps: int, checkpoints: Path) -> None:
    """Check that a run without a checkpoint is not past the step of its first.

    Such a run starts again in its folder; a longer one had checkpoints, and would be lost.

    Raises:
        ValueError: It is past that step.
    """
    steps = MetricsCSV(folder).last_step()
    if steps > every_n_steps:
        raise ValueError(
            f"ckpt_path: 'last' is not there: {checkpoints}; but the run in '{folder}' has come to "
            f"step {steps}: put its checkpoint back, or choose another folder"
        )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from running in a folder, and clear away what killed ones left.

    The system releases the lock of a process that dies.

    Raises:
        ValueError: Another process runs there.
        OSError: Nothing can be written there.
    """
    lock, is_new = FileLock(folder / LOCK, timeout=0), not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"run.dir: another process is running in '{folder}'; wait for its end, or choose "
            "another folder"
        ) from None
    except OSError as error:
        raise OSError(f"run.dir: '{folder}' cannot be written to ({error.strerror})") from error
    try:
        remove_unfinished(folder)
        yield
    finally:
        # While it is held: whoever opened it sees that the file is gone.
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if is_new:
            with suppress(OSError):  # Of a run that did not pass its checks nothing is there.
                folder.rmdir()


def check_same_on_all_ranks(settings: Mapping[str, Any]) -> None:
    """Check that every rank of the run has the same settings.

    Raises:
        ValueError: One has another value, or a setting that others do not have.
    """
    if world_size() == 1:
        return
    ranks: list[dict[str, str]] = [{} for _ in range(world_size())]
    dist.all_gather_object(ranks, {key: repr(value) for key, value in settings.items()})
    for key in sorted(set().union(*ranks)):
        values = [rank.get(key, "not set") for rank in ranks]
        for number, value in enumerate(values):
            if value != values[0]:
                raise ValueError(
                    f"{key}: {values[0]} on rank 0 and {value} on rank {number}; all ranks must be "
                    "given the same"
                )


class SaveRunConfig(SaveConfigCallback):
    """Write the run's config into its folder, and to the loggers as hyper-parameters.

    A continued run whose config differs writes ``config-2.yaml`` and so on beside the first.
    """

    path: Path | None = None
    """The file that this process wrote, or found to be the same."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the ranks; a run that does not pass the checks of its set-up leaves no folder."""
        check_same_on_all_ranks(dict(self.config.items()))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config; called on rank zero only."""
        config = self.config.clone()
        # Not of the run, but of the subcommand: without them all subcommands take the file.
        for name in ("ckpt_path", "weights_only"):
            config.pop(name, None)
        text = self.parser.dump(config, skip_none=False, skip_validation=True)
        folder = Path(trainer.default_root_dir)
        path, number = folder / CONFIG, 1
        while path.exists() and path.read_text() != text:
            number += 1
            path = folder / f"config-{number}.yaml"
        with replacing(path) as file:
            file.write(text)
        self.path = path
        for logger in trainer.loggers:
            log_config(logger, yaml.safe_load(text))
        remember_id(trainer.loggers, folder)


def tensorboard_logger(kind: type[TensorBoardLogger], **arguments: Any) -> TensorBoardLogger:
    """Make a logger that continues in ``save_dir`` itself when its run is resumed.

    It logs no ``hp_metric``, which would be -1 for ever.

    Args:
        kind: Class of the logger.
        **arguments: Of the class; a version, or a name other than the default, wins.
    """
    if arguments.get("version") is None and arguments.get("name") == "lightning_logs":
        arguments |= {"name": "", "version": ""}
    return kind(**(arguments | {"default_hp_metric": False}))


class MetricsCSV(Logger):
    """Write ``metrics.csv``: a row per logged step, a column per metric, complete after every row.

    Unlike Lightning's ``CSVLogger`` it continues the file of the run that it resumes.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS
        self._columns: list[str] = []
        self.rows = 0
        """Rows written so far."""

    @property
    def name(self) -> str:
        """``csv``."""
        return "csv"

    @property
    def version(self) -> str:
        """The run's folder."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the config is in a separate file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row = {"step": step, **{k: v for k, v in metrics.items() if k not in ("step", "epoch")}}
        new = [name for name in row if name not in self._columns]
        if new:
            rows = self._read()
            self._columns += new
            self._write(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)
        self.rows += 1

    @rank_zero_only
    def sync(self) -> None:
        """See to it that all rows are on the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def go_back_to(self, rows: int) -> None:
        """Drop all rows but the first ``rows``: a resumed run makes the others again."""
        self._columns = []
        kept = self._read()[:rows]
        if self._columns:
            self._write(kept)
        self.rows = len(kept)

    def last_step(self) -> int:
        """Generator step of the last row; 0 if there is none."""
        return max((int(row["step"]) for row in self._read() if row["step"]), default=0)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            self._columns = list(reader.fieldnames or [])
            # A run killed in the middle of a row leaves one that is too short.
            return [row for row in reader if None not in row.values()]

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
