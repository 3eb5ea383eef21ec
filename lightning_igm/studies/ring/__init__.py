"""The stability study of GRAM-net, MMD-GAN, MMD-net and a GAN on a ring of Gaussians."""

from lightning_igm.studies.ring.study import grid, main

__all__ = ["grid", "main"]
