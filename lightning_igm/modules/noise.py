"""The run's own noise: the same on every rank, and where it was in a continued run."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_igm.distributed import rank, world_size

__all__ = ["LatentDistribution", "NoiseStream", "draw_latents"]

LatentDistribution = Literal["normal", "uniform", "unit_uniform"]


class NoiseStream:
    """A stream of random numbers that no other part of the program moves."""

    def __init__(self) -> None:
        self.generator: torch.Generator | None = None
        """Where the numbers come from; None until they are first asked for."""
        self._restored: Tensor | None = None

    def on(self, device: torch.device) -> torch.Generator:
        """The stream, which begins on this device if it has not begun."""
        if self.generator is None:
            self.generator = torch.Generator(device).manual_seed(torch.initial_seed())
        return self.generator

    def begin(self, module: LightningModule) -> None:
        """Begin with the run's seed, or go on from what was restored, on the module's device."""
        seed = torch.initial_seed()
        if world_size() > 1:  # Without seed_everything every rank has a seed of its own.
            seed = module.trainer.strategy.broadcast(seed)
        self.generator = torch.Generator(module.device).manual_seed(seed)
        restored, self._restored = self._restored, None
        if restored is None:
            return
        try:
            self.generator.set_state(restored)
        except RuntimeError:
            rank_zero_warn(
                "The checkpoint comes from another kind of device, whose stream of noise "
                f"cannot go on on {module.device.type}: the run goes on with fresh noise."
            )
            self.generator.manual_seed(seed + module.global_step)

    def begin_on_rank(self, device: torch.device) -> None:
        """Begin with a seed of this rank's own."""
        self.generator = torch.Generator(device).manual_seed(torch.initial_seed() + rank())

    def state(self) -> Tensor | None:
        """Where the stream is; None if it has not begun."""
        return self._restored if self.generator is None else self.generator.get_state()

    def restore(self, state: Tensor | None) -> None:
        """Go on from there when a run begins."""
        self._restored = state


def draw_latents(
    distribution: LatentDistribution,
    shape: tuple[int, int],
    weights: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw latents in the precision of a network's weights and on their device.

    Args:
        distribution: Of every number.
        shape: ``(N, latent_dim)``.
        weights: One of the network's.
        generator: Source of randomness; the numbers are drawn on its device. The global one of the
            weights' device by default.
    """
    device = weights.device if generator is None else generator.device
    latents = torch.empty(shape, dtype=weights.dtype, device=device)
    if distribution == "normal":
        latents.normal_(generator=generator)
    else:
        latents.uniform_(-1 if distribution == "uniform" else 0, 1, generator=generator)
    return latents.to(weights.device)
