"""Helpers of the notebooks: a folder for their runs, and one line for a skipped cell."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

__all__ = ["OPTIONS", "NotRunError", "needs", "workspace"]

OPTIONS = (
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
"""Options of ``igm fit`` for a notebook: one device, little output."""


class NotRunError(NameError):
    """A cell above was not run."""

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython shows instead of a traceback."""
        return [str(self)]


def needs(*names: str) -> None:
    """Check that the cells above have been run.

    Args:
        names: Variables that they make.

    Raises:
        NotRunError: One is missing; a notebook shows one line.

    Example:
        >>> needs("cli")
        Traceback (most recent call last):
        ...
        lightning_igm.studies.notebook.NotRunError: cli: not there yet; run the cells above first
    """
    missing = [name for name in names if name not in vars(sys.modules["__main__"])]
    if missing:
        raise NotRunError(f"{', '.join(missing)}: not there yet; run the cells above first")


def workspace(name: str) -> Path:
    """Go to a fresh temporary folder, which goes when Python ends; Lightning tells warnings only.

    Args:
        name: Of the notebook.

    Returns:
        The folder, as ``.``: in outputs a path that ends on another machine would tell nothing.
    """
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix=f"igm-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chdir(folder)
    return Path()
