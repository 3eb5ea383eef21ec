"""``python -m lightning_igm.studies.ring``."""

from lightning_igm.studies._figure import console
from lightning_igm.studies.ring import main

if __name__ == "__main__":
    console(main, "ring")
