"""The two base classes: a generator with a latent distribution, and a generator with a critic."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_igm.distributed import mean_gradients, rank, world_size
from lightning_igm.modules.checks import one_of, positive

__all__ = ["AdversarialModule", "ImplicitGenerativeModule", "NonFiniteLossError"]

Player = Literal["generator", "critic"]

# Batches; each check waits for the device.
_CHECK_LOSSES_EVERY = 50
_NEVER = torch.iinfo(torch.int64).max


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the run stops."""


class ImplicitGenerativeModule(LightningModule, ABC):
    """A generator that turns latents into images, and how it learns.

    A method is a subclass with a :meth:`generator_loss`. The unit of time is the generator step:
    ``trainer.global_step``, ``max_steps``, schedules, checkpoints and every logger's x-axis count
    updates of the generator.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        generator_optimizer: Makes the generator's optimizer from its parameters.
        generator_scheduler: Makes a learning-rate schedule, stepped once per generator step.
        latent_dim: Size of a latent; that of the generator by default.
        latent_distribution: ``normal`` for N(0, I), ``uniform`` for U[-1, 1].

    Raises:
        ValueError: An argument is out of range, or the generator takes another latent size.
    """

    def __init__(
        self,
        generator: nn.Module,
        generator_optimizer: OptimizerCallable = torch.optim.Adam,
        generator_scheduler: LRSchedulerCallable | None = None,
        latent_dim: int | None = None,
        latent_distribution: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__()
        _save_plain_hyperparameters(self)
        self.automatic_optimization = False
        self.generator = generator
        self.latent_distribution = one_of(
            "latent_distribution", latent_distribution, ("normal", "uniform")
        )
        expected = getattr(generator, "latent_dim", latent_dim)
        if latent_dim not in (None, expected):
            raise ValueError(
                f"latent_dim: the model's is {latent_dim} and the generator's is {expected}; "
                "they must be equal"
            )
        if expected is None:
            raise ValueError(
                f"latent_dim: null is not allowed with a {type(generator).__name__}, which has no "
                "attribute latent_dim; give the size of its latents"
            )
        self.latent_dim = positive("latent_dim", expected)
        self._optimizers: dict[Player, tuple[OptimizerCallable, LRSchedulerCallable | None]] = {
            "generator": (generator_optimizer, generator_scheduler)
        }
        self._noise: torch.Generator | None = None
        self._noise_state: Tensor | None = None
        self._first_non_finite: dict[Player, Tensor] = {}
        self.latest: dict[str, Tensor] = {}
        """Latest value of everything given to :meth:`log_training`."""
        self.in_training_step = False
        """Whether the run is between the start of a batch and the end of its updates."""

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

    def forward(self, latent: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` for latents ``(N, latent_dim)``."""
        images: Tensor = self.generator(latent)
        return images

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, latent_dim)`` latents on the module's device.

        Args:
            n: Number of latents.
            generator: Source of randomness; the noise is drawn on its device. The global one of the
                module's device by default.
        """
        shape = (n, self.latent_dim)
        device = self.device if generator is None else generator.device
        latent = torch.empty(shape, dtype=self._weights_dtype, device=device)
        if self.latent_distribution == "normal":
            latent.normal_(generator=generator)
        else:
            latent.uniform_(-1, 1, generator=generator)
        return latent.to(self.device)

    @property
    def _weights_dtype(self) -> torch.dtype:
        return next(self.generator.parameters()).dtype

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

    def generate(self, n: int) -> Tensor:
        """Generate ``(n, C, H, W)`` images for training, differentiable in the generator."""
        return self.forward(self.training_latent(n))

    def training_latent(self, n: int) -> Tensor:
        """Draw this rank's ``(n, latent_dim)`` latents from the run's own stream of noise.

        The noise of the global batch is drawn on every rank and each takes its rows, so that N
        ranks see what one process would see.
        """
        if self._noise is None:
            self._noise = torch.Generator(self.device).manual_seed(torch.initial_seed())
        rows = slice(rank() * n, (rank() + 1) * n)
        return self.sample_latent(world_size() * n, self._noise)[rows]

    def training_images(self) -> Iterator[Tensor]:
        """Every training image once, in order and as the data module prepares them, in batches.

        Under several ranks, this rank's share of them.
        """
        for batch in self.ordered_data().ordered_train_dataloader():
            yield self.images_of(self.trainer.strategy.batch_to_device(batch, dataloader_idx=0))

    def ordered_data(self) -> Any:
        """The data module, which must be able to give every training image once, in order.

        Raises:
            ValueError: It is not.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "ordered_train_dataloader"):
            raise ValueError(
                f"data: {type(data).__name__} has no ordered_train_dataloader(), which must give "
                "every training image once, in order; subclass datamodules.ImageDataModule"
            )
        return data

    def images_of(self, batch: Any) -> Tensor:
        """Images ``(N, C, H, W)`` of a batch that is a tensor, or a sequence that begins with one.

        They come in the precision of the weights: Lightning converts batches to it before the data
        module makes floats of them.
        """
        images: Tensor = batch[0] if isinstance(batch, list | tuple) else batch
        return images.to(self._weights_dtype)

    # --- updates ------------------------------------------------------------------------------

    def update(self, player: Player, loss: Tensor) -> None:
        """One update of one player: its gradient alone, one reduction over ranks, one step.

        Only the generator's optimizer is stepped through Lightning, which counts it: that makes
        ``trainer.global_step`` the number of generator steps. The others are stepped as plain torch
        optimizers.
        """
        network: nn.Module = getattr(self, player)
        self._watch(player, loss)
        parameters = [p for p in network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, mean_gradients(gradients), strict=True):
            parameter.grad = gradient
        self.log_training({f"{player}_loss": loss})
        counted = player == "generator"
        optimizer: Any = self.optimizers(use_pl_optimizer=counted)
        if isinstance(optimizer, list):  # Lightning gives a single one bare.
            optimizer = optimizer[list(self._optimizers).index(player)]
        optimizer.step()
        optimizer.zero_grad()
        if counted:
            for scheduler in self._schedulers():
                scheduler.step()
            if self.global_step % self.log_every_n_steps == 0:
                self.log_now(self.latest)

    @property
    def log_every_n_steps(self) -> int:
        """The trainer's cadence of logging, here in generator steps."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every

    def log_training(self, values: Mapping[str, Tensor]) -> None:
        """Show values of this update in the progress bar, and keep them for the loggers.

        The loggers get the latest of them every ``trainer.log_every_n_steps`` *generator* steps.

        Args:
            values: Scalars ``()`` by name, on any device; they are not waited for.
        """
        self.latest.update({name: value.detach() for name, value in values.items()})
        self.log_dict(dict(values), prog_bar=True, logger=False)

    def log_now(self, values: Mapping[str, Tensor]) -> None:
        """Give values to all loggers at once, at this generator step.

        Args:
            values: Scalars ``()`` by name; the device is waited for.
        """
        metrics = {name: float(value) for name, value in values.items()}
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """One optimizer per player, the generator's first, and their schedules."""
        optimizers, schedulers = [], []
        for player, (make_optimizer, make_scheduler) in self._optimizers.items():
            optimizers.append(make_optimizer(getattr(self, player).parameters()))
            if make_scheduler is not None:
                schedulers.append(make_scheduler(optimizers[-1]))
        return optimizers, schedulers

    def _schedulers(self) -> Iterable[Any]:
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    # --- checks -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check precision, and that the generator makes images like the data's.

        Raises:
            ValueError: They do not fit.
        """
        if str(self.trainer.precision).startswith("16"):
            raise ValueError(
                f"trainer.precision: {self.trainer.precision!r} is not supported (gradients of "
                "gradients underflow in float16); use '32-true', 'bf16-mixed' or '64-true'"
            )
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self._check_images(
                getattr(data, "image_shape", None), getattr(data, "value_range", None)
            )

    def _check_images(
        self, shape: tuple[int, ...] | None, value_range: tuple[float, float] | None
    ) -> None:
        try:
            with torch.no_grad(), eval_mode(self.generator):
                images = self(
                    torch.zeros(2, self.latent_dim, device=self.device, dtype=self._weights_dtype)
                )
        except RuntimeError as error:
            raise ValueError(
                f"generator: {type(self.generator).__name__} does not take latents "
                f"(2, {self.latent_dim}): {str(error).splitlines()[0]}"
            ) from error
        if shape is not None and tuple(images.shape[1:]) != tuple(shape):
            raise ValueError(
                f"generator: its images are {tuple(images.shape[1:])} (C, H, W) and the data's "
                f"are {tuple(shape)}; set both to the same size"
            )
        if value_range is None:
            return
        low, high = value_range
        made = getattr(self.generator, "value_range", None)
        if made is None:
            values = (images.min().item(), images.max().item())
            made = (min(low, values[0]), max(high, values[1]))
        if tuple(made) != (low, high):
            raise ValueError(
                f"generator: its values are in {list(made)} and the data's in {[low, high]}; "
                "change the generator's output (sigmoid: [0, 1], tanh: [-1, 1]) or data.value_range"
            )

    def _watch(self, player: Player, loss: Tensor) -> None:
        """Remember, without waiting for the device, the first step whose loss is not finite."""
        first = self._first_non_finite.get(player)
        if first is None:
            first = torch.full((), _NEVER, device=loss.device)
        step = torch.where(loss.detach().isfinite(), _NEVER, self.global_step)
        self._first_non_finite[player] = torch.minimum(first, step)

    def check_finite(self) -> None:
        """Wait for the device and check every loss so far.

        Raises:
            NonFiniteLossError: One was NaN or infinite.
        """
        steps = {player: int(first) for player, first in self._first_non_finite.items()}
        if not steps or min(steps.values()) == _NEVER:
            return
        player = min(steps, key=lambda name: steps[name])
        saved = [getattr(c, "last_model_path", "") for c in self.trainer.checkpoint_callbacks]
        good = next((path for path in saved if Path(path).is_file()), "none was saved")
        raise NonFiniteLossError(
            f"{player}_loss is not finite at generator step {steps[player]}; the run stops; last "
            f"good checkpoint: {good}"
        )

    # --- evaluation loops and state -------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: scores are made by callbacks at the end of the loop."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: scores are made by callbacks at the end of the loop."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """As many generated images ``(N, C, H, W)`` as the batch has."""
        return self.sample(self.images_of(batch).shape[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run is sound, and keep its stream of noise and its counters."""
        self.check_finite()
        checkpoint["training_state"] = self.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the stream of noise and the counters."""
        if "training_state" in checkpoint:
            self.load_training_state(checkpoint["training_state"])

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond weights and optimizers; plain data and tensors only."""
        noise = self._noise_state if self._noise is None else self._noise.get_state()
        return {"noise": noise, "latest": self.latest}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up :meth:`training_state`."""
        self._noise_state = state["noise"]
        self.latest = state["latest"]

    def on_fit_start(self) -> None:
        """Start the run's stream of noise, or go on with it."""
        self._noise = torch.Generator(self.device).manual_seed(torch.initial_seed())
        if self._noise_state is not None:
            self._noise.set_state(self._noise_state)
            self._noise_state = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Mark the start of the batch's updates; and look for bad losses now and then."""
        self.in_training_step = True
        if batch_idx % _CHECK_LOSSES_EVERY == 0:
            self.check_finite()

    def on_train_end(self) -> None:
        """Check the losses since the last save."""
        self.check_finite()


class AdversarialModule(ImplicitGenerativeModule):
    """A generator and a critic.

    One batch of data feeds one critic step; when :meth:`critic_steps_due` critic steps are done,
    the generator steps on the same batch. A method is a subclass with two losses; one with another
    cadence overrides :meth:`critic_steps_due`; one with another order overrides ``training_step``.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        critic: Maps images ``(N, C, H, W)`` to logits ``(N,)``.
        critic_optimizer: Makes the critic's optimizer from its parameters.
        critic_scheduler: Makes its schedule, stepped once per *generator* step as well.
        critic_steps: Critic steps per generator step.
        **kwargs: The arguments of :class:`ImplicitGenerativeModule`.

    Raises:
        ValueError: An argument is out of range, or the generator takes another latent size.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
        critic_scheduler: LRSchedulerCallable | None = None,
        critic_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.critic = critic
        self._optimizers["critic"] = (critic_optimizer, critic_scheduler)
        self.critic_steps = positive("critic_steps", critic_steps, zero=True)
        self.critic_steps_taken = 0

    @abstractmethod
    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss that the critic minimises.

        Args:
            real: ``(N, C, H, W)``, a batch of the data.
            fake: ``(N, C, H, W)``, generated images, without gradient to the generator.

        Returns:
            ``()``.
        """

    def critic_steps_due(self) -> int:
        """Critic steps to take before the next generator step."""
        return self.critic_steps

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A critic step if one is due, then a generator step if no more are."""
        real = self.images_of(batch)
        if self.critic_steps_taken < self.critic_steps_due():
            self.critic_step(real)
        if self.critic_steps_taken >= self.critic_steps_due():
            self.generator_step(real)

    def critic_step(self, real: Tensor) -> None:
        """Update the critic once, on fresh generated images."""
        with torch.no_grad():
            fake = self.generate(real.shape[0])
        self.update("critic", self.critic_loss(real, fake))
        self.critic_steps_taken += 1

    def generator_step(self, real: Tensor) -> None:
        """Update the generator once and begin a new round of critic steps."""
        super().generator_step(real)
        self.critic_steps_taken = 0

    def training_state(self) -> dict[str, Any]:
        """The base's state and the position in the round of critic steps."""
        return super().training_state() | {"critic_steps_taken": self.critic_steps_taken}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up :meth:`training_state`."""
        super().load_training_state(state)
        self.critic_steps_taken = state["critic_steps_taken"]


# --- helpers ------------------------------------------------------------------------------------


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and every part of it back afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _save_plain_hyperparameters(module: LightningModule) -> None:
    """Keep hyper-parameters in checkpoints, as far as they load without executing code.

    The command line's are plain data, networks and optimizers included (class paths). Networks and
    optimizers passed as Python objects are left out; ``load_from_checkpoint`` takes them by name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")
        module.save_hyperparameters(logger=False)
    for name in [name for name, value in module.hparams.items() if not _is_plain(value)]:
        del module.hparams[name]
