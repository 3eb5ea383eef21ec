"""LightningCLI over the methods of this package."""

import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_igm.callbacks import (
    ExactResume,
    Films,
    GeneratorCheckpoint,
    GeneratorEMA,
    GeneratorProgressBar,
    ImageMetrics,
    PredictionWriter,
    RingScores,
    SampleGrid,
)
from lightning_igm.callbacks.checkpoint import place_checkpoints
from lightning_igm.callbacks.network_summary import with_network_summary
from lightning_igm.checks import supported_precision
from lightning_igm.cli.outcome import say, telling_the_end
from lightning_igm.cli.parser import (
    check_schedules,
    classes_first,
    current_paths,
)
from lightning_igm.cli.presets import with_config_files
from lightning_igm.cli.trainer_options import check_slurm, check_trainer_options
from lightning_igm.modules.monitors import check_callback_path
from lightning_igm.runs.checkpoints import Saved, best, check_fits, check_trains, last_good, read
from lightning_igm.runs.folder import (
    CHECKPOINTS,
    MetricsCSV,
    check_began_only,
    check_no_run,
    choose_run_folder,
    exclusive,
    tensorboard_logger,
)
from lightning_igm.runs.wandb import finishing, wandb_logger

__all__ = ["IGMCLI"]


class IGMCLI(LightningCLI):
    """LightningCLI over the methods of this package.

    Beyond Lightning's: every run has its own folder (``--run.dir``), ``--ckpt_path last`` resumes
    the run in it, the current configuration overrides the checkpoint's, and seven callbacks have
    their arguments on the command line: ``--samples``, ``--metrics``, ``--modes``, ``--ema``,
    ``--checkpoint``, ``--predictions`` and ``--films``.
    """

    def __init__(self, *, args: Any = None, **options: Any) -> None:
        words = sys.argv[1:] if args is None else args
        self._command = words[:1] if isinstance(words, list) else []
        super().__init__(args=args, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that was asked for, as each has a parser to build; or else all."""
        known = super().subcommands()
        return {name: skip for name, skip in known.items() if name in self._command} or known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and the callbacks."""
        parser.usage = "%(prog)s --config PRESET_OR_FILE [--OPTION VALUE ...]"
        parser.add_argument(
            "--run.dir",
            type=str | None,
            default=None,
            help="Folder of the run; by default a fresh one under runs/, named by preset and time.",
        )
        parser.add_lightning_class_args(SampleGrid, "samples")
        parser.add_lightning_class_args(ImageMetrics, "metrics")
        parser.add_lightning_class_args(RingScores, "modes")
        parser.add_lightning_class_args(GeneratorEMA, "ema")
        parser.add_lightning_class_args(GeneratorCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(Films, "films")
        parser.set_defaults({"ema.decay": None})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, find presets, and note the first: the run's folder is named after it."""
        words = sys.argv[1:] if args is None else args
        for word in words if isinstance(words, list) else []:
            if word.startswith(("--trainer.callbacks=", "--trainer.callbacks+=")):
                check_callback_path(word.partition("=")[2])
        files: list[Path] = []
        if isinstance(words, list):
            words, files = with_config_files(words)
            words = classes_first([current_paths(word) for word in words])
        self._preset = files[0] if files else None
        super().parse_arguments(parser, words)

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint's hyper-parameters alone: what is typed wins."""

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder and the checkpoint."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        # Here as well: on a CPU Lightning would quietly make 16-mixed bf16-mixed.
        supported_precision(config.trainer.precision)
        if config.trainer.barebones:
            config.trainer.log_every_n_steps = 0  # Lightning refuses that of the presets.
        check_trainer_options(config.trainer, fits=self.subcommand == "fit")
        check_schedules(config.model)
        if not config.trainer.plugins:
            check_slurm()
        if self.subcommand == "predict" and config.return_predictions is None:
            config.return_predictions = False  # They are in files.
        self._settle_run_folder(config)
        make = partial(wandb_logger, folder=Path(config.run.dir))
        self.parser.add_instantiator(make, WandbLogger)
        self.parser.add_instantiator(tensorboard_logger, TensorBoardLogger)

    def _settle_run_folder(self, config: Any) -> None:
        wanted = config.get("ckpt_path")
        if wanted in ("last", "best") and config.run.dir is None:
            raise ValueError(
                f"ckpt_path: {wanted!r} needs the run's folder; give it by --run.dir DIR"
            )
        if wanted == "best" and self.subcommand == "fit":
            raise ValueError(
                "ckpt_path: 'best' is not allowed with fit; a run resumes from its 'last'"
            )
        if wanted not in (None, "last", "best") and not Path(wanted).is_file():
            raise FileNotFoundError(
                f"ckpt_path: {wanted!r} is not a file, and not 'last' or 'best'"
            )
        if config.run.dir is None:
            root = config.trainer.default_root_dir or "runs"
            config.run.dir = str(choose_run_folder(root, self._preset))
        elif self.subcommand == "fit" and wanted != "last" and not os.environ.get("LOCAL_RANK"):
            check_no_run(Path(config.run.dir))
        self._continues = wanted == "last"
        config.trainer.default_root_dir = config.run.dir
        if (where := config.checkpoint.dirpath) and "://" not in where:
            config.checkpoint.dirpath = str(Path(where).absolute())

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it from the checkpoint that serves; only one run at a time writes into a folder."""
        config = self.config_init[subcommand]
        writes = subcommand == "fit" and rank_zero_only.rank == 0  # type: ignore[attr-defined]
        lock = exclusive(Path(config["run"]["dir"])) if writes else nullcontext()
        with lock, finishing(self.trainer.loggers):
            if self._settle_checkpoint(config):
                return
            safe = config.get("weights_only") is not False
            end = telling_the_end(self.trainer, weights_only=safe)
            try:
                with end if subcommand == "fit" else nullcontext():
                    super()._run_subcommand(subcommand)
            except SIGTERMException:
                raise SystemExit(128 + signal.SIGTERM) from None

    def _settle_checkpoint(self, config: Any) -> bool:
        """Find the checkpoint to begin with; whether it is the end of the run already."""
        wanted, weights_only = config.get("ckpt_path"), config.get("weights_only") is not False
        saved: Saved | None = None
        run, kept = Path(config["run"]["dir"]), self._get(self.config_init, "checkpoint")
        folder = Path(kept.dirpath or run / CHECKPOINTS)
        trains = self.subcommand == "fit"
        if wanted == "last":
            saved = last_good(folder, self.model, weights_only=weights_only, to_train=trains)
            if saved is None and self.subcommand != "fit":
                raise FileNotFoundError(f"ckpt_path: 'last' is not there: {folder}")
            if saved is None:
                check_began_only(run, kept.every_n_steps, folder)
                say(f"no checkpoint in {folder}; the run starts")
        elif wanted is not None:
            saved = (
                best(folder, weights_only=weights_only)
                if wanted == "best"
                else read(Path(wanted), weights_only=weights_only)
            )
            check_fits(saved, self.model)
            if trains:
                check_trains(saved)
        if saved is not None and not trains and "callbacks" not in saved.content:
            self._check_raw(saved)
        config["ckpt_path"] = None if saved is None else str(saved.path)
        if saved is None or wanted != "last" or self.subcommand != "fit":
            return False
        finished = saved.is_finished(self.trainer.max_steps, self.trainer.max_epochs)
        if finished:
            steps = saved.content["global_step"]
            say(f"the run in {config['run']['dir']} is finished, at generator step {steps}")
        return finished

    def _check_raw(self, saved: Saved) -> None:
        """Refuse to take weights as trained where their average is asked for."""
        if self._get(self.config_init, "ema").decay is not None:
            raise ValueError(
                f"ckpt_path: {str(saved.path)!r} holds weights only, and not their average; set "
                "--ema.decay null to take them as trained"
            )

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ValueError(f"seed_everything: {error}") from error

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; a method without its base's parts is reported at once."""
        super().instantiate_classes()
        if "players" not in vars(self.model):
            name = type(self.model).__name__
            raise ValueError(f"model: __init__ of {name} does not call super().__init__(...)")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: metrics.csv, a bar in generator steps, exact resume."""
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        own: list[Callback] = [
            self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys
        ]
        given = config["callbacks"] or []
        given = list(given) if isinstance(given, list) else [given]
        barebones = config["barebones"]
        if barebones or config["enable_checkpointing"] is False:
            own = [callback for callback in own if not isinstance(callback, GeneratorCheckpoint)]
        place_checkpoints(given, config["default_root_dir"])
        bars: list[Callback] = []
        if not (barebones or config["enable_progress_bar"] is False) and not any(
            isinstance(callback, ProgressBar) for callback in given
        ):
            bars = [GeneratorProgressBar()]
        config["callbacks"] = [ExactResume(self._continues), *given, *bars]
        config["logger"] = self._loggers(config)
        trainer = self._instantiate_trainer(config, own)
        trainer.callbacks = with_network_summary(trainer.callbacks, given)  # type: ignore[attr-defined]
        return trainer

    def _loggers(self, config: dict[str, Any]) -> list[Logger] | bool:
        given = config["logger"]
        if given is False or config["fast_dev_run"] or config["barebones"]:
            return False
        loggers = [] if given in (None, True) else given if isinstance(given, list) else [given]
        for logger in loggers:
            if not isinstance(logger, Logger):
                raise ValueError(f"trainer.logger: {logger!r} is not allowed; it must be a logger")
        if self.subcommand in (None, "fit"):
            loggers = [MetricsCSV(config["default_root_dir"]), *loggers]
        return loggers or False
