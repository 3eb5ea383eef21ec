"""Weights & Biases runs that go with ours: their folder, their id, their config, their best scores.

``--trainer.logger WandbLogger`` makes one. Without an API key it is offline, and never asks.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_igm.metrics.score import score_classes

__all__ = ["best_scores", "finishing", "log_config", "remember_id", "wandb_logger"]

_ID = "wandb_id.txt"
_WITHOUT_KEY = ("offline", "disabled", "dryrun")
_MODES = ("online", "shared", "run", *_WITHOUT_KEY)
_begun: set[str] = set()
"""Ids of the runs that our loggers began."""


def wandb_logger(kind: type[WandbLogger], folder: Path, **arguments: Any) -> WandbLogger:
    """Make a logger whose files are in the run's folder, and that continues the folder's W&B run.

    Args:
        kind: Class of the logger.
        folder: The run's.
        **arguments: Of the class; they win, as do W&B's environment variables.

    Raises:
        ValueError: W&B is not installed, would ask for a key, or does not know the mode.
    """
    environment = os.environ
    if arguments.get("save_dir") in (None, "."):  # "." is the default.
        arguments["save_dir"] = environment.get("WANDB_DIR") or folder.absolute()
    if not (arguments.get("project") or "WANDB_PROJECT" in environment):
        arguments["project"] = "lightning_igm"
    if not (arguments.get("name") or "WANDB_NAME" in environment):
        arguments["name"] = folder.name
    chosen = arguments.get("id") or arguments.get("version") or "WANDB_RUN_ID" in environment
    if not chosen and (folder / _ID).is_file():
        arguments["id"] = (folder / _ID).read_text().strip()
    mode = "offline" if arguments.get("offline") else arguments.get("mode")
    name, mode = ("mode", mode) if mode else ("WANDB_MODE", environment.get("WANDB_MODE"))
    if mode is not None and mode not in _MODES:
        raise ValueError(f"{name}: {mode!r} is not allowed; it must be one of {', '.join(_MODES)}")
    try:
        if mode not in _WITHOUT_KEY and _is_without_key():
            if mode is not None:
                raise ValueError(
                    f"{name}: {mode!r} needs an API key, and there is none; `wandb login` sets "
                    "one, and 'offline' needs none"
                )
            arguments["mode"] = "offline"
            rank_zero_info("W&B has no API key, so this run is offline; `wandb login` sets one")
        return _with_a_run_of_its_own(kind)(**arguments)
    except ModuleNotFoundError as error:
        raise ValueError(
            "trainer.logger: WandbLogger needs W&B; pip install 'lightning-igm[wandb]'"
        ) from error


def _is_without_key() -> bool:
    """Whether W&B would ask for a key."""
    import requests
    import wandb

    settings = wandb.setup().settings
    if settings.mode in _WITHOUT_KEY:  # By a file of settings.
        return False
    token = os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    if token and not Path(token).is_file():
        raise FileNotFoundError(f"WANDB_IDENTITY_TOKEN_FILE: {token!r} is not a file")
    known = settings.api_key or os.environ.get("WANDB_API_KEY") or token
    return not (known or requests.utils.get_netrc_auth(settings.base_url))


def _with_a_run_of_its_own(kind: type[WandbLogger]) -> type[WandbLogger]:
    """The class, but its objects do not continue the W&B run of another of our runs."""

    class OfOneRun(kind):  # type: ignore[misc, valid-type]
        @property
        def experiment(self) -> Any:
            import wandb

            if self._experiment is None and wandb.run is not None and wandb.run.id in _begun:
                wandb.finish()
            run = super().experiment
            _begun.add(getattr(run, "id", ""))
            return run

    OfOneRun.__name__ = kind.__name__
    return OfOneRun


def log_config(logger: Logger, config: Mapping[str, Any]) -> None:
    """Give the whole config to a logger as hyper-parameters.

    A sweep over a class holds W&B's key ``model`` for itself: what belongs there goes to
    ``model_config``.
    """
    logger.log_hyperparams(dict(config))
    if isinstance(logger, WandbLogger):
        kept = logger.experiment.config
        lost = {
            f"{name}_config": value
            for name, value in config.items()
            if isinstance(value, Mapping) and isinstance(kept.get(name), str)
        }
        if lost:
            logger.log_hyperparams(lost)


def remember_id(loggers: Iterable[Logger], folder: Path) -> None:
    """Keep the id of a W&B run in the run's folder, for when it is resumed."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            (folder / _ID).write_text(f"{logger.experiment.id}\n")


@contextmanager
def finishing(loggers: Iterable[Logger]) -> Iterator[None]:
    """Finish a W&B run at the end, for better or worse.

    Raises:
        ConnectionError: W&B could not be reached, or did not want the run.
    """
    if not any(isinstance(logger, WandbLogger) for logger in loggers):
        yield
        return
    import wandb

    code = 1
    try:
        yield
        code = 0
    except wandb.Error as error:
        raise ConnectionError(
            f"W&B: {error}; to go without it now, set WANDB_MODE=offline and `wandb sync` later"
        ) from error
    finally:
        if wandb.run is not None:
            wandb.finish(exit_code=code)


def best_scores(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The best of each score, as ``best/fid`` and so on.

    Args:
        history: Rows of scores; those that are no better high than low are left out.

    Example:
        >>> best_scores([{"step": 1, "fid": 9.0, "hq": 0.5}, {"step": 2, "fid": 7.0, "hq": 0.25}])
        {'best/fid': 7.0, 'best/hq': 0.5}
    """
    higher = {name: up for kind in score_classes().values() for name, up in kind.columns.items()}
    best: dict[str, float] = {}
    for row in history:
        for name, value in row.items():
            if higher.get(name) is not None and isfinite(value):
                pick = max if higher[name] else min
                best[f"best/{name}"] = pick(value, best.get(f"best/{name}", value))
    return best
