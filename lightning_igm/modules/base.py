"""The base class of all methods: a generator, a latent distribution, players that are updated."""

from abc import ABC, abstractmethod
from typing import Any, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_igm.checks import above_zero, one_of, positive
from lightning_igm.data.adapter import data_of
from lightning_igm.data.examples import images_from, picked
from lightning_igm.distributed import mean_gradients, rank, world_size
from lightning_igm.modules.finite import NonFiniteLossError
from lightning_igm.modules.hyperparameters import save_plain_hyperparameters
from lightning_igm.modules.memory_format import laid_out_like
from lightning_igm.modules.modes import eval_mode
from lightning_igm.modules.noise import LatentDistribution, draw_latents
from lightning_igm.modules.players import (
    Player,
    check_loss,
    clipped,
    made_optimizers,
    made_schedules,
    optimizer_of,
    trained_parameters,
)
from lightning_igm.modules.resume import settings_of
from lightning_igm.modules.run_hooks import RunHooks
from lightning_igm.modules.set_up import latent_dim_of, stated_range

__all__ = ["ImplicitGenerativeModule", "NonFiniteLossError"]


class ImplicitGenerativeModule(RunHooks, ABC):
    """A generator that turns latents into images, and how it learns.

    A method is a subclass with a :meth:`generator_loss`. The unit of time is the generator step:
    ``trainer.global_step``, ``max_steps``, schedules, checkpoints and every logger's x-axis count
    updates of the generator.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        generator_optimizer: Makes the generator's optimizer from its parameters.
        generator_scheduler: Makes a learning-rate schedule, stepped once per generator step.
        latent_dim: Size of a latent; that of the generator by default.
        latent_distribution: ``normal`` for N(0, I), ``uniform`` for U[-1, 1], ``unit_uniform`` for
            U[0, 1].
        gradient_clip: Largest norm of each parameter tensor's gradient, of either player; one that
            exceeds it is scaled to it. None for no limit.
        compile: Whether to compile the networks that :meth:`compiled_networks` gives, to train with
            them; or the name of another backend of ``torch.compile`` than its default.
        channels_last: Whether the weights of convolutions, and with them images on their way
            through, lie channels last in memory: for ``bf16-mixed`` on devices that multiply
            bfloat16 in hardware. It changes speed only.

    Raises:
        ValueError: An argument is out of range, or the generator takes another latent size.
    """

    def __init__(
        self,
        generator: nn.Module,
        generator_optimizer: OptimizerCallable = torch.optim.Adam,
        generator_scheduler: LRSchedulerCallable | None = None,
        latent_dim: int | None = None,
        latent_distribution: LatentDistribution = "normal",
        gradient_clip: float | None = None,
        compile: bool | str = False,  # noqa: A002 - as torch calls it
        channels_last: bool = False,
    ) -> None:
        super().__init__(compile, channels_last)
        save_plain_hyperparameters(self)
        self.automatic_optimization = False
        self.generator = generator
        self.latent_dim = latent_dim_of(generator, latent_dim)
        self.latent_distribution: LatentDistribution = one_of(
            "latent_distribution", latent_distribution, get_args(LatentDistribution)
        )
        self.gradient_clip = (
            gradient_clip if gradient_clip is None else above_zero("gradient_clip", gradient_clip)
        )
        self.players = {"generator": Player(generator_optimizer, generator_scheduler)}
        """Optimizers and schedules by the attribute that has the network; the generator first."""

    @abstractmethod
    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss that the generator minimises.

        Args:
            real: ``(N, C, H, W)``, a batch of the data.
            fake: ``(N, C, H, W)``, generated images, differentiable in the generator.

        Returns:
            ``()``.
        """

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One generator step per batch."""
        self.generator_step(self.images_of(batch))

    def generator_step(self, real: Tensor) -> None:
        """Update the generator once: the step that the run's clock counts."""
        self.update("generator", self.generator_loss(real, self.generate(real.shape[0])))

    # --- sampling -----------------------------------------------------------------------------

    @property
    def image_generator(self) -> nn.Module:
        """Network that makes images of latents: the generator, and what comes after it."""
        return self.generator

    def forward(self, latent: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` for latents ``(N, latent_dim)``."""
        images: Tensor = self.image_generator(latent)
        return images

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Generate images for evaluation: no gradient, the generator in eval mode.

        Args:
            n: Number of images.
            generator: Source of randomness; the global one of the module's device by default.

        Returns:
            ``(n, C, H, W)`` in the data's value range.
        """
        with eval_mode(self.generator):
            return self.forward(self.sample_latent(positive("n", n), generator))

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, latent_dim)`` latents on the module's device, as :meth:`sample` does."""
        weights = next(self.generator.parameters())
        return draw_latents(self.latent_distribution, (n, self.latent_dim), weights, generator)

    def generate(self, n: int) -> Tensor:
        """Generate ``(n, C, H, W)`` images for training, differentiable in the generator."""
        return self.forward(self.training_latent(n))

    def training_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw this rank's ``(n, latent_dim)`` latents from the run's own stream of noise.

        The noise of the global batch is drawn on every rank and each takes its rows, so that N
        ranks see what one process would see.

        Args:
            n: Number of latents.
            generator: Another stream, for what must not move the run's own.
        """
        rows = slice(rank() * n, (rank() + 1) * n)
        return self.sample_latent(world_size() * n, generator or self.noise)[rows]

    @property
    def weights_dtype(self) -> torch.dtype:
        """Precision of the generator's weights."""
        return next(self.generator.parameters()).dtype

    @property
    def made_range(self) -> tuple[float, float] | None:
        """Range of values that the generator states or its last activation implies, or None."""
        return stated_range(self.generator)

    def images_of(self, batch: Any) -> Tensor:
        """Images ``(N, C, H, W)`` of a batch, in the precision of the weights.

        It is a tensor, begins with one, or has one under ``image``. uint8 images become floats in
        the generator's range; see :class:`~lightning_igm.data.adapter.LoaderData`.

        Raises:
            ValueError: There are none, or of another shape than those before.
        """
        images = images_from(batch, data_of(self._trainer), self.made_range)
        return images.to(self.weights_dtype)

    # --- updates ------------------------------------------------------------------------------

    def update(self, player: str, loss: Tensor) -> None:
        """One update of one player: its gradient alone, one reduction over ranks, one step."""
        self.apply_gradients(player, loss, self.gradients_of(player, loss))

    def gradients_of(
        self, player: str, loss: Tensor, *, retain_graph: bool = False
    ) -> list[Tensor]:
        """Gradient of a loss in one player's parameters alone, reduced over ranks.

        Args:
            player: Whose parameters.
            loss: ``()``.
            retain_graph: Whether another loss of the same passes is still to be differentiated.
        """
        check_loss(player, loss)
        parameters = trained_parameters(self, player)
        # Autocast would also take what goes back through float32 layers in lower precision.
        with torch.autocast(self.device.type, enabled=False):
            own = torch.autograd.grad(
                loss, parameters, retain_graph=retain_graph, materialize_grads=True
            )
        return mean_gradients(own)

    def apply_gradients(self, player: str, loss: Tensor, gradients: list[Tensor]) -> None:
        """One step of one player's optimizer, with what :meth:`gradients_of` gave.

        Only the generator's optimizer is stepped through Lightning, which counts it: that makes
        ``trainer.global_step`` the number of generator steps. The others are stepped as plain torch
        optimizers.
        """
        self.finite_losses.watch(player, loss, gradients, self.global_step)
        gradients = clipped(gradients, self.gradient_clip)
        for parameter, gradient in zip(trained_parameters(self, player), gradients, strict=True):
            parameter.grad = laid_out_like(parameter, gradient)
        self.log_training({f"{player}_loss": loss})
        counted = player == "generator"
        optimizer = optimizer_of(self, self.players, player, counted=counted)
        optimizer.step()
        optimizer.zero_grad()
        if counted:
            for config in self.trainer.lr_scheduler_configs:
                config.scheduler.step()  # type: ignore[call-arg]
            if self.clock.is_logged_step():
                self.log_now(self.latest)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """One optimizer per player, the generator's first, and their schedules."""
        optimizers = made_optimizers(self, self.players)
        # Before the schedules: one that warms up changes the rate as it is made.
        self.continued_settings.now = [settings_of(optimizer) for optimizer in optimizers]
        schedules = made_schedules(self.players, optimizers)
        self.continued_settings.now += [settings_of(schedule) for schedule in schedules]
        return optimizers, schedules

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """As many generated images ``(N, C, H, W)`` as the batch has."""
        return self.sample(len(picked(batch)), self.noise)
