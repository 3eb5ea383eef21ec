"""What `igm fit` trains, by a plain PyTorch loop; and both in turns, within one run.

The loop has the method's losses, networks and optimizers, and no Lightning. What it leaves out is
the framework's: the loops and hooks, the data module and its sampler, the streams of noise that a
run continues, the watch over losses, the log and the callbacks.

Both are timed by the processor time of this process, on one thread: what else runs on the machine
is no part of it.
"""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning.pytorch import Callback
from timing import Seconds
from torch import Tensor

from lightning_igm import AdversarialModule, AutoencoderMMDGAN, GRAMNet, MoLM, SobolevGAN
from lightning_igm.cli import main
from lightning_igm.losses.adversarial import logistic_critic_loss
from lightning_igm.losses.moments import logits_and_squared_norms, mean_moments
from lightning_igm.losses.ratio import (
    biased_mmd2,
    estimate_ratio,
    gram_matrices,
    mmd_root,
    projector_loss,
)
from lightning_igm.networks.spectral import advance_spectral_norms

QUIET = ["--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


class BareLoop:
    """A method without a critic.

    Args:
        model: Whose networks, losses and settings; it is trained.
        images: The training images, uint8 ``(N, C, H, W)``.
        batch_size: Images in a batch.
        to_float: Makes a batch what the networks see.
    """

    def __init__(
        self, model, images: Tensor, batch_size: int, to_float: Callable[[Tensor], Tensor]
    ) -> None:
        self.model, self.images, self.size, self.to_float = model, images, batch_size, to_float
        optimizers, _ = model.configure_optimizers()
        self.optimizers = dict(zip(("generator", "critic"), optimizers, strict=False))
        self.batches = self.shuffled()
        self.steps = 0

    def generator_step(self) -> None:
        """What one step of the run's clock is made of."""
        self.critic_phase()
        self.generator_update(next(self.batches))
        self.steps += 1

    def both_updates(self) -> None:
        """One update of each player."""
        self.critic_update(next(self.batches))
        self.generator_update(next(self.batches))

    def critic_phase(self) -> None:
        """What goes before a step of the generator."""

    def critic_update(self, real: Tensor) -> None:
        """None without a critic."""

    def generator_update(self, real: Tensor) -> None:
        self.update("generator", self.model.generator_loss(real, self.fake()))

    def shuffled(self) -> Iterator[Tensor]:
        while True:
            for rows in torch.randperm(len(self.images)).split(self.size):
                if len(rows) == self.size:
                    yield self.to_float(self.images[rows])

    def fake(self) -> Tensor:
        latent = torch.empty(self.size, self.model.latent_dim)
        if self.model.latent_distribution == "normal":
            return self.model.generator(latent.normal_())
        smallest = -1 if self.model.latent_distribution == "uniform" else 0
        return self.model.generator(latent.uniform_(smallest, 1))

    def update(self, player: str, loss: Tensor) -> None:
        self.apply(player, self.gradients(player, loss))

    def gradients(self, player: str, loss: Tensor, *, retain_graph: bool = False) -> list[Tensor]:
        parameters = list(getattr(self.model, player).parameters())
        return torch.autograd.grad(
            loss, parameters, retain_graph=retain_graph, materialize_grads=True
        )

    def apply(self, player: str, gradients: list[Tensor]) -> None:
        parameters = list(getattr(self.model, player).parameters())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
            if self.model.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(parameter, self.model.gradient_clip)
        self.optimizers[player].step()


class AdversarialLoop(BareLoop):
    """Some critic steps before each step of the generator."""

    def critic_phase(self) -> None:
        for _ in range(self.model.critic_steps):
            self.critic_update(next(self.batches))

    def critic_update(self, real: Tensor) -> None:
        model = self.model
        if isinstance(model, AutoencoderMMDGAN):
            for parameter in model.encoder.parameters():
                parameter.detach().clamp_(-model.encoder_clip, model.encoder_clip)
        advance_spectral_norms(model.critic)
        with torch.no_grad():
            fake = self.fake()
        self.update("critic", model.critic_loss(real, fake))
        if isinstance(model, SobolevGAN):
            model.multiplier += model.rho * model.latest["sobolev_constraint"]

    def generator_update(self, real: Tensor) -> None:
        advance_spectral_norms(self.model.critic)
        super().generator_update(real)


class GRAMLoop(BareLoop):
    """Both players' gradients of the same passes, then both steps."""

    def generator_update(self, real: Tensor) -> None:
        model, fake = self.model, self.fake()
        grams = gram_matrices(model.critic(fake), model.critic(real), model.sigmas)
        ratio, _ = estimate_ratio(grams, model.jitter)
        ascent = projector_loss(ratio, model.regulariser, model.regulariser_weight)
        descent = mmd_root(biased_mmd2(grams))
        of_critic = self.gradients("critic", ascent, retain_graph=True)
        of_generator = self.gradients("generator", descent)
        self.apply("critic", of_critic)
        self.apply("generator", of_generator)


class MoLMLoop(BareLoop):
    """Critic phases, each with a pass over the data after it, and generator steps between."""

    data_moments: Tensor | float = 0.0

    def critic_phase(self) -> None:
        if self.steps % self.model.critic_interval == 0:
            for _ in range(self.model.critic_steps):
                self.critic_update(next(self.batches))
            self.data_moments = self.mean_moments_of_data()

    def critic_update(self, real: Tensor) -> None:
        model = self.model
        with torch.no_grad():
            fake = self.fake()
        logits, norms = logits_and_squared_norms(model.critic, real)
        penalty = (norms.mean() / model.num_moments - 1).square()
        loss = logistic_critic_loss(logits, model.critic(fake))
        self.update("critic", loss + model.penalty_weight * penalty)

    def generator_update(self, real: Tensor) -> None:
        away = self.away()
        two = self.model.estimator == "two_batch"
        squared = away.dot(self.away()) if two else away.square().sum()
        self.update("generator", squared / 2)

    def away(self) -> Tensor:
        moments = mean_moments(self.model.critic, self.fake(), images_only=True)
        return moments - self.data_moments

    @torch.no_grad()
    def mean_moments_of_data(self) -> Tensor:
        total = torch.zeros(self.model.num_moments)
        for batch in self.images.split(self.size):
            total += mean_moments(self.model.critic, self.to_float(batch)) * len(batch)
        return total / len(self.images)


def bare_loop(model, *arguments) -> BareLoop:
    """The loop of a method; the arguments are :class:`BareLoop`'s."""
    kinds = {MoLM: MoLMLoop, GRAMNet: GRAMLoop, AdversarialModule: AdversarialLoop}
    loop = next((loop for kind, loop in kinds.items() if isinstance(model, kind)), BareLoop)
    return loop(model, *arguments)


def loop_over_noise(model, batch_size: int, size: int = 32) -> BareLoop:
    """The loop of a method over images that mean nothing."""
    images = torch.randint(256, (batch_size, 3, size, size), dtype=torch.uint8)
    return bare_loop(model, images, batch_size, lambda batch: batch.div(255))


class Turns(Callback):
    """A generator step of the run, then one by other means, and so on.

    The first turn of both, in which caches fill, does not count.

    Args:
        step: Makes a generator step by those other means, with what goes before it.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step
        self.rounds: list[Seconds] = []
        self.begun = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step < self.begun:
            return
        self.begun += 1
        stop = time.process_time()
        self.step()
        again = time.process_time()
        if self.begun > 2:
            self.rounds.append({"fit": stop - self.start, "bare": again - stop})
        self.start = again


def fit_beside_bare_loop(arguments: list[str], folder: Path, turns: int) -> list[Seconds]:
    """Processor seconds of `igm fit` and of the bare loop, from the start of a batch to another's.

    Args:
        arguments: Of `igm fit`.
        folder: Of the run.
        turns: Generator steps that count; where there are critic phases, a multiple of their
            interval, so that both have as many.
    """
    # The first step is a round that does not count, and the one after the last turn is not timed.
    steps = ["--trainer.max_steps", str(turns + 2)]
    cli = main([*arguments, *QUIET, *steps, "--run.dir", str(folder)], run=False)
    data = cli.datamodule
    data.setup()
    model = copy.deepcopy(cli.model)
    loop = bare_loop(model, data.train_images, data.batch_size, data.to_float)
    times = Turns(loop.generator_step)
    cli.trainer.callbacks.insert(0, times)
    cli.trainer.fit(cli.model, data)
    assert len(times.rounds) == turns
    return times.rounds
