"""The command line: ``igm fit --config quickstart``."""

from lightning_igm.cli.app import IGMCLI
from lightning_igm.cli.program import console, main

__all__ = ["IGMCLI", "console", "main"]
