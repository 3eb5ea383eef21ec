"""``python -m lightning_igm`` is ``igm``."""

from lightning_igm.cli import console

if __name__ == "__main__":
    console()
