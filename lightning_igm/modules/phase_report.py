"""Measurements before and after a critic phase of MoLM, for the loggers; they change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_igm.distributed import all_mean, mean_gradients
from lightning_igm.modules.modes import kept_buffers
from lightning_igm.modules.players import trained_parameters

if TYPE_CHECKING:
    from lightning_igm.modules.molm import MoLM

__all__ = ["begin_report", "end_report"]


def begin_report(model: MoLM, real: Tensor) -> None:
    """Measure the critic before a phase, and where the old moments drew the generator.

    Args:
        model: Before a critic step; nothing is done but before the first of a phase, and if phases
            come faster than logs are written.
        real: ``(N, C, H, W)``.
    """
    logged = model.critic_interval >= model.clock.every > 0 or model.clock.is_logged_step()
    if model.critic_steps_taken or not logged:
        return
    model.before_phase = _critic_accuracy(model, real, "before")
    if model.data_moments is not None:
        model.before_phase["gradient"] = _generator_gradient(model, real)


def end_report(model: MoLM, real: Tensor) -> None:
    """Measure them again, with new moments, and log what the phase changed, if it was measured.

    ``generator_gradient_cosine`` is that of the generator's gradients before and after.
    """
    before, model.before_phase = model.before_phase, {}
    if not before:
        return
    values = {name: model.latest[name] for name in ("critic_loss", "mean_squared_moment")}
    if "gradient" in before:
        gradients = before.pop("gradient"), _generator_gradient(model, real)
        values["generator_gradient_cosine"] = F.cosine_similarity(*gradients, dim=0)
    model.log_now(values | before | _critic_accuracy(model, real, "after"))


def _generator_gradient(model: MoLM, real: Tensor) -> Tensor:
    """Gradient ``(d,)`` of the generator's loss, at the same latents before and after."""
    with kept_buffers(model.generator):
        fake = torch.cat([model(z) for z in _own_latents(model, real, model.passes)])
        gradients = torch.autograd.grad(
            model.generator_loss(real, fake),
            trained_parameters(model, "generator"),
            materialize_grads=True,
        )
    return torch.cat([gradient.flatten() for gradient in mean_gradients(gradients)])


def _own_latents(model: MoLM, real: Tensor, passes: int) -> list[Tensor]:
    """Latents for measuring; whether a phase is measured must not change the training."""
    noise = torch.Generator(model.device).manual_seed(model.global_step)
    return [model.training_latent(real.shape[0], noise) for _ in range(passes)]


@torch.no_grad()
def _critic_accuracy(model: MoLM, real: Tensor, when: str) -> dict[str, Tensor]:
    with kept_buffers(model.generator):
        (latent,) = _own_latents(model, real, 1)
        fake = model(latent)
    return {
        f"critic_accuracy_real_{when}": all_mean((model.critic(real) > 0).float().mean()),
        f"critic_accuracy_fake_{when}": all_mean((model.critic(fake) <= 0).float().mean()),
    }
