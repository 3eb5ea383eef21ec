"""``igm`` and ``main``: the command line as a program and as a function."""

import errno
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf.errors import OmegaConfBaseException

from lightning_igm import modules
from lightning_igm.cli.app import IGMCLI
from lightning_igm.cli.errors import NotParsedError, plain
from lightning_igm.cli.names import did_you_mean
from lightning_igm.cli.parser import (
    OneLineParser,
)
from lightning_igm.cli.presets import folder_of_presets, preset_table
from lightning_igm.cli.trainer_options import NEVER
from lightning_igm.runs.compare import main as compare
from lightning_igm.runs.export import console as export
from lightning_igm.runs.folder import (
    SaveRunConfig,
)

__all__ = ["console", "main"]

USER_ERRORS = (
    ValueError,
    OSError,
    MisconfigurationException,
    modules.NonFiniteLossError,
    OmegaConfBaseException,
)
COMMANDS = ("presets", "fit", "validate", "test", "predict", "compare", "export")


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
        model_class=modules.ImplicitGenerativeModule,
        datamodule_class=LightningDataModule,
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
    here = os.getcwd()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or "/"
        if os.path.dirname(file) != here or not os.path.isfile(file):
            continue
        path = Path(file)
        spec, changed = getattr(module, "__spec__", None), path.stat().st_mtime
        known = _imported.get(name)
        if known is None or known[0] is not spec:  # New, or loaded anew.
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
        ".*exists and is not empty.*",  # A continued run's checkpoints.
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
  igm compare              one table and one figure of several runs
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
    elif words[0] == "compare":
        compare(words[1:])
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
