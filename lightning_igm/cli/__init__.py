"""The command line."""

from lightning_igm.cli.app import IGMCLI, console, main

__all__ = ["IGMCLI", "console", "main"]
