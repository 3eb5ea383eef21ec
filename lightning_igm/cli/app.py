"""The command line: ``igm fit --config quickstart``."""

import errno
import logging
import os
import re
import signal
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf.errors import OmegaConfBaseException

from lightning_igm import modules
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
    NotParsedError,
    OneLineParser,
    check_schedules,
    classes_first,
    current_paths,
    did_you_mean,
    plain,
)
from lightning_igm.cli.presets import folder_of_presets, preset_table, with_config_files
from lightning_igm.cli.trainer_options import NEVER, check_slurm, check_trainer_options
from lightning_igm.modules.monitors import check_callback_path
from lightning_igm.runs.checkpoints import Saved, best, check_fits, check_trains, last_good, read
from lightning_igm.runs.export import console as export
from lightning_igm.runs.folder import (
    CHECKPOINTS,
    MetricsCSV,
    SaveRunConfig,
    check_began_only,
    check_no_run,
    choose_run_folder,
    exclusive,
    tensorboard_logger,
)
from lightning_igm.runs.wandb import finishing, wandb_logger

__all__ = ["IGMCLI", "console", "main"]

USER_ERRORS = (
    ValueError,
    OSError,
    MisconfigurationException,
    modules.NonFiniteLossError,
    OmegaConfBaseException,
)


COMMANDS = ("presets", "fit", "validate", "test", "predict", "export")


class IGMCLI(LightningCLI):
    """LightningCLI over the methods of this package.

    Beyond Lightning's: every run has its own folder (``--run.dir``), ``--ckpt_path last`` resumes
    the run in it, the current configuration overrides the checkpoint's, and seven callbacks have
    their arguments on the command line: ``--samples``, ``--metrics``, ``--modes``, ``--ema``,
    ``--checkpoint``, ``--predictions`` and ``--films``.
    """

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
        if "_optimizers" not in vars(self.model):
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


def main(args: list[str] | None = None, *, run: bool = True) -> LightningCLI:
    """Run the command line.

    Args:
        args: What would be typed after ``igm``; the process's own arguments by default.
        run: Whether to run a subcommand (``fit``, ``validate``, ``test``, ``predict``). If false,
            ``args`` begins without one, and the objects are made and returned.

    Returns:
        The command line's object, with ``.model``, ``.datamodule`` and ``.trainer``.

    Raises:
        ValueError: The arguments cannot be parsed, are out of range or do not fit each other.
        OSError: A file is missing or cannot be written.
        SystemExit: The help was asked for, or a signal stopped the run.

    Example:
        >>> cli = main(["--config", "molm/digits"], run=False)
        >>> cli.model.sample(4).shape
        torch.Size([4, 3, 16, 16])
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # A console script does not see the user's own modules.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    _quieten()
    _tell_of_stale_modules()
    try:
        return _command_line(args, run=run)
    finally:
        _tell_of_stale_modules()


def _command_line(args: list[str] | None, *, run: bool) -> IGMCLI:
    return IGMCLI(
        modules.ImplicitGenerativeModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_class=OneLineParser,
        parser_kwargs={"parser_mode": "omegaconf+", "prog": "igm", "allow_abbrev": False},
        seed_everything_default=0,
        trainer_defaults={
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            # Never within fit: ImageMetrics scores at its own cadence, in generator steps.
            "check_val_every_n_epoch": NEVER,
            "enable_autolog_hparams": False,  # SaveRunConfig tells the loggers the whole config.
        },
        auto_configure_optimizers=False,
        args=args,
        run=run,
    )


_imported: dict[str, tuple[Any, float]] = {}
"""The user's modules that were imported, and when their files last changed."""


def _tell_of_stale_modules() -> None:
    """Warn of the user's modules that have changed since they were imported, as in a notebook."""
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        if path.parent != Path.cwd() or not path.is_file():
            continue
        spec, changed = getattr(module, "__spec__", None), path.stat().st_mtime
        known = _imported.get(name)
        if known is None or known[0] is not spec:  # New, or reloaded.
            _imported[name] = spec, changed
        elif changed > known[1]:
            rank_zero_warn(
                f"{path.name} has changed since it was imported, and what was imported is used; "
                f"importlib.reload({name}) or a new process takes the new one"
            )


def _quieten() -> None:
    """Silence warnings that say nothing about the user's run."""
    for message in (
        ".*save the pre-optimization state.*",  # Lightning: what we save is what we mean.
        ".*LightningCLI's args parameter is intended.*",
        ".*does not have many workers.*",  # Batches are one tensor indexing; workers do not pay.
        ".*isinstance.treespec, LeafSpec..*",  # Lightning on torch >= 2.9.
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*exists and is not empty.*",  # A resumed run's checkpoints.
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Lightning 2.6 calls jsonargparse >= 4.49 by old names; there is no public class to filter by.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not re.match(r"\W*Tip: .*try installing \[lit(logger|models)\]", str(record.msg))


_HELP = """\
igm trains implicit generative models: method of learned moments, ratio matching, MMD GANs.

  igm presets [WORD ...]   list the presets with these words: paper, method, data set
  igm fit                  train a model
  igm validate, igm test   score a trained model
  igm predict              write what a trained model generates
  igm export               write a generator for programs without this package

  igm fit --config quickstart
  igm fit --config molm/cifar10 --config mine.yaml --model.penalty_weight 2 --run.dir runs/mine
  igm test --config runs/mine/config.yaml --ckpt_path last

igm COMMAND --help shows all options; igm fit --model.help MoLM those of a method, and likewise
--data.help CIFAR10DataModule and --trainer.logger.help WandbLogger."""


def console() -> None:
    """Entry point of ``igm``: a user's mistake gives one line and a non-zero exit."""
    words = sys.argv[1:]
    try:
        try:
            _run(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        # Whoever reads has seen enough, as head does; what is left is not written at exit, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not _only_tells(words):
            _fail(error)
    except USER_ERRORS as error:
        _fail(error)


def _run(words: list[str]) -> None:
    if words in ([], ["-h"], ["--help"]):
        print(_HELP)
    elif words[0] not in COMMANDS and not words[0].startswith("-"):
        near = did_you_mean(words[0], COMMANDS)
        raise NotParsedError(
            f"{words[0]!r} is not a command; {near}it must be {', '.join(COMMANDS)}"
        )
    elif words[0] == "presets" and {"-h", "--help"} & set(words):
        print("igm presets [WORD ...]: list the presets with all these words in any column")
    elif words[0] == "presets":
        print(f"{preset_table(words[1:])}\n\nTheir files, and sweeps: {folder_of_presets()}")
    elif words[0] == "export":
        export(words[1:])
    else:
        main()


def _only_tells(words: list[str]) -> bool:
    asked = [word for word in words if re.match(r"-h$|--([\w.]+\.)?help\b|--print_config\b", word)]
    return not words or words[0] == "presets" or bool(asked)


def _fail(error: BaseException) -> NoReturn:
    if os.environ.get("IGM_TRACEBACK"):
        raise error
    told = [plain(_said(error)), *getattr(error, "__notes__", [])]
    print(f"igm: {'; '.join(told)}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, NotParsedError) else 1) from None


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{error.filename or 'a file'} cannot be written ({os.strerror(error.errno)}); make "
            "room, and resume with --ckpt_path last: earlier checkpoints are intact"
        )
    return str(error)
