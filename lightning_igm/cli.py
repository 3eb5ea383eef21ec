"""The command line: ``igm fit --config configs/quickstart.yaml``."""

import inspect
import os
import re
import sys
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from omegaconf.errors import OmegaConfBaseException

import datamodules
from lightning_igm import callbacks, modules, networks
from lightning_igm.callbacks import (
    ExactResume,
    GeneratorCheckpoint,
    GeneratorEMA,
    GeneratorProgressBar,
    ImageMetrics,
    PredictionWriter,
    RingScores,
    SampleGrid,
)
from lightning_igm.checks import supported_precision
from lightning_igm.losses import kernels
from lightning_igm.run import (
    MetricsCSV,
    SaveRunConfig,
    check_no_run,
    choose_run_folder,
    last_checkpoint,
)

__all__ = ["IGMCLI", "console", "main"]

USER_ERRORS = (
    ValueError,
    OSError,
    MisconfigurationException,
    modules.NonFiniteLossError,
    OmegaConfBaseException,
)


def is_method(candidate: type) -> bool:
    """Whether a class is a method, and not a base class of methods."""
    bases = modules.ImplicitGenerativeModule
    return issubclass(candidate, bases) and not inspect.isabstract(candidate)


_OPTIMIZERS = [name for name in torch.optim.__all__ if name[0].isupper()]
_BASES = ("ImageDataModule", "InMemoryDataModule")
_KNOWN_CLASSES = {
    "model": [name for name in modules.__all__ if is_method(getattr(modules, name))],
    "data": [
        name for name in datamodules.__all__ if name.endswith("DataModule") and name not in _BASES
    ],
    "generator": [name for name in networks.__all__ if name.endswith("Generator")],
    "critic": [name for name in networks.__all__ if name.endswith("Critic")],
    "decoder": [name for name in networks.__all__ if name.endswith("Generator")],
    "autoencoder": ["Autoencoder"],
    "generator_optimizer": _OPTIMIZERS,
    "critic_optimizer": _OPTIMIZERS,
    "callbacks": callbacks.__all__,
    "kernel": [name for name in kernels.__all__ if name not in ("Kernel", "Pairs")],
}


class IGMCLI(LightningCLI):
    """LightningCLI over the methods of this package.

    Beyond Lightning's: every run has a folder of its own (``--run.dir``), ``--ckpt_path last``
    continues the run in it, what is typed or configured wins over what a checkpoint holds, and five
    callbacks have their arguments on the command line: ``--samples``, ``--metrics``, ``--modes``,
    ``--ema`` and ``--checkpoint``.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and the callbacks."""
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
        parser.set_defaults({"ema.decay": None})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and note the first config file: the run's folder is named after it."""
        words = sys.argv[1:] if args is None else args
        text = "\n".join(words) if isinstance(words, list) else ""
        first = re.search(r"^(?:--config|-c)[=\n](.+)$", text, re.MULTILINE)
        self._preset = first[1] if first else None
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint's hyper-parameters alone: what is typed wins."""

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder and the checkpoint."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        # Here as well: on a CPU Lightning would quietly make 16-mixed bf16-mixed.
        supported_precision(config.trainer.precision)
        self._settle_run_folder(config)

    def _settle_run_folder(self, config: Any) -> None:
        wanted = config.get("ckpt_path")
        if wanted == "last":
            if config.run.dir is None:
                raise ValueError(
                    "ckpt_path: 'last' needs the run's folder; give it by --run.dir DIR"
                )
            last = last_checkpoint(Path(config.run.dir))
            if not last.exists() and self.subcommand != "fit":
                raise FileNotFoundError(f"ckpt_path: 'last' is not there: {last}")
            if not last.exists():
                print(f"igm: no checkpoint in {last.parent}; the run starts", file=sys.stderr)
            config.ckpt_path = str(last) if last.exists() else None
        elif wanted is not None and not Path(wanted).is_file():
            raise FileNotFoundError(f"ckpt_path: {wanted!r} is not a file, and not 'last'")
        if config.run.dir is None:
            root = config.trainer.default_root_dir or "runs"
            config.run.dir = str(choose_run_folder(root, self._preset))
        elif self.subcommand == "fit" and wanted != "last" and not os.environ.get("LOCAL_RANK"):
            check_no_run(Path(config.run.dir))
        self._continues = wanted == "last"
        config.trainer.default_root_dir = config.run.dir

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; a checkpoint that cannot be read or does not fit gives one line."""
        path = self.config[subcommand].get("ckpt_path")
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            if path is None or not re.search(
                "state_dict|zip archive|unpickl|Weights only", str(error)
            ):
                raise
            raise ValueError(
                f"ckpt_path: {path!r} cannot be read or does not fit the model: {plain(str(error))}"
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: metrics.csv, a bar in generator steps, exact resume."""
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        own: list[Callback] = [
            self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys
        ]
        given = config["callbacks"] or []
        given = list(given) if isinstance(given, list) else [given]
        bars: list[Callback] = []
        if config["enable_progress_bar"] is not False and not any(
            isinstance(callback, ProgressBar) for callback in given
        ):
            bars = [GeneratorProgressBar()]
        config["callbacks"] = [ExactResume(self._continues), *given, *bars, PredictionWriter()]
        config["logger"] = self._loggers(config)
        return self._instantiate_trainer(config, own)

    def _loggers(self, config: dict[str, Any]) -> list[Logger] | bool:
        given = config["logger"]
        if given is False or config["fast_dev_run"]:
            return False
        loggers = [] if given in (None, True) else given if isinstance(given, list) else [given]
        if self.subcommand in (None, "fit"):
            loggers = [MetricsCSV(config["default_root_dir"]), *loggers]
        return loggers or False


class _Parser(LightningArgumentParser):
    """Tells an error in one line, with what would be allowed."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if unknown := re.search(r"Option '(\S+)' is not accepted$", message):
            names = sorted({str(a.dest) for a in self._actions if "." not in a.dest})
            names = [name for name in names if name not in ("help", "print_shtab")]
            message = f"{unknown[1]}: unknown key; allowed: {', '.join(names)}"
        elif unknown := re.search(
            r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)", message
        ):
            message = f"{unknown[1]}: unknown key; allowed: {self._siblings(unknown[1])}"
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"igm: {plain(message)}", file=sys.stderr)
        raise SystemExit(2)

    def _siblings(self, key: str) -> str:
        """The keys beside one that is unknown, of whatever subcommand."""
        group = key.rpartition(".")[0]
        commands = getattr(self._subcommands_action, "_name_parser_map", {}) or {"": self}
        keys = {str(a.dest) for parser in commands.values() for a in parser._actions}
        beside = sorted({k for k in keys if k.rpartition(".")[0] == group} - {"help"})
        return ", ".join(beside or sorted({k.partition(".")[0] for k in keys} - {"help"}))


def plain(message: str) -> str:
    """The core of an error message, on one line."""
    line = " ".join(message.split())
    keys = re.findall(r'Parser key "([\w.]+)"', line)
    # A wrong value for an optional class is reported with the whole of its configuration.
    if union := re.search(r"Errors: - (.*?) - Expected a <class 'NoneType'>", line):
        line = union[1]
    abstract = "class, but is abstract" in message and re.search(r"Given value: (\S+)", message)
    if unknown := abstract or re.search(r"Expected a dot import path string: (\S+)", line):
        kind = keys[-1].rsplit(".", 1)[-1] if keys else "model"
        known = ", ".join(_KNOWN_CLASSES.get(kind, ["short names of imported classes"]))
        what = "a base class" if abstract else "not known"
        line = f"{kind}: {unknown[1]!r} is {what}; allowed: {known}, or package.module.Class"
    return line


def main(args: list[str] | None = None, *, run: bool = True) -> LightningCLI:
    """Run the command line.

    Args:
        args: What would be typed after ``igm``; the process's own arguments by default.
        run: Whether to run a subcommand (``fit``, ``validate``, ``test``, ``predict``). If false,
            ``args`` begins without one, and the objects are made and returned.

    Returns:
        The command line's object, with ``.model``, ``.datamodule`` and ``.trainer``.

    Raises:
        ValueError: An argument is out of range or does not fit the others.
        OSError: A file is missing or cannot be written.
        SystemExit: The arguments cannot be parsed; the reason is on standard error.

    Example:
        >>> cli = main(["--config", "configs/molm/digits.yaml"], run=False)
        >>> cli.model.sample(4).shape
        torch.Size([4, 3, 16, 16])
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # A console script does not see the user's own modules.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    _quieten()
    return IGMCLI(
        modules.ImplicitGenerativeModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_class=_Parser,
        parser_kwargs={"parser_mode": "omegaconf+"},
        seed_everything_default=0,
        trainer_defaults={
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            # Never within fit: ImageMetrics scores at its own cadence, in generator steps.
            "check_val_every_n_epoch": sys.maxsize,
        },
        auto_configure_optimizers=False,
        args=args,
        run=run,
    )


def _quieten() -> None:
    """Silence warnings that say nothing about the user's run."""
    for message in (
        ".*save the pre-optimization state.*",  # Lightning: what we save is what we mean.
        ".*LightningCLI's args parameter is intended.*",
        ".*does not have many workers.*",  # Batches are one tensor indexing; workers do not pay.
        ".*isinstance.treespec, LeafSpec..*",  # Lightning on torch >= 2.9.
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*exists and is not empty.*",  # A continued run's checkpoints.
    ):
        warnings.filterwarnings("ignore", message)
    # Lightning 2.6 calls jsonargparse >= 4.49 by old names; there is no public class to filter by.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def console() -> None:
    """Entry point of ``igm``: a user's mistake gives one line and a non-zero exit."""
    try:
        main()
    except USER_ERRORS as error:
        if os.environ.get("IGM_TRACEBACK"):
            raise
        print(f"igm: {plain(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
