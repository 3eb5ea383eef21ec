"""The base class of all methods: a generator, a latent distribution, an optimizer."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_igm.checks import above_zero, checkpoint_has_all, one_of, positive, supported_trainer
from lightning_igm.data.adapter import LoaderData, data_of, stated_by
from lightning_igm.data.examples import as_floats, image_tensor, picked
from lightning_igm.distributed import all_mean, mean_gradients, rank, world_size
from lightning_igm.modules.clock import GeneratorClock, log_by_generator_steps
from lightning_igm.modules.compilation import check_compiler, compile_in_place
from lightning_igm.modules.memory_format import laid_out_like, lay_out_state
from lightning_igm.modules.monitors import count_as_saved, prepare_callbacks, tell_monitors
from lightning_igm.modules.settings import (
    apply_changes,
    check_classes,
    made_optimizer,
    made_schedule,
    settings_of,
    warn_of_rising_rates,
)
from lightning_igm.modules.support import (
    check_images,
    check_loss,
    check_takes_images,
    eval_mode,
    save_plain_hyperparameters,
    scalars,
    stated_range,
    try_out,
)
from lightning_igm.networks.batch_norm import synchronise_batch_norms
from lightning_igm.runs.checkpoints import settle_epochs

__all__ = ["ImplicitGenerativeModule", "NonFiniteLossError"]

Player = Literal["generator", "critic", "autoencoder"]
LatentDistribution = Literal["normal", "uniform", "unit_uniform"]

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

    logged: tuple[str, ...] = ()
    """What this class gives to :meth:`log_training`, beyond its bases and the players' losses."""

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
        super().__init__()
        save_plain_hyperparameters(self)
        self.automatic_optimization = False
        self.generator = generator
        if not any(True for _ in generator.parameters()):
            raise ValueError(f"generator: {type(generator).__name__} has no parameters to train")
        self.latent_distribution = one_of(
            "latent_distribution", latent_distribution, get_args(LatentDistribution)
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
        self.gradient_clip = (
            gradient_clip if gradient_clip is None else above_zero("gradient_clip", gradient_clip)
        )
        self.compiler = compile
        self.channels_last = channels_last
        self._optimizers: dict[Player, tuple[OptimizerCallable, LRSchedulerCallable | None]] = {
            "generator": (generator_optimizer, generator_scheduler)
        }
        self._settings: list[dict[str, Any]] = []
        self._settings_before: list[dict[str, Any]] = []
        self._noise: torch.Generator | None = None
        self._noise_state: Tensor | None = None
        self._first_non_finite: dict[Player, Tensor] = {}
        self._batches_unchecked = 0
        self.clock = GeneratorClock(self)
        self.latest: dict[str, Tensor] = {}
        """Latest value of everything given to :meth:`log_training`."""
        self.in_training_step = False
        """Whether the run is between the start of a batch and the end of all that belongs to it."""
        self.stop_by: type[BaseException] | None = None
        """What to raise after the batch, if the run is to stop."""

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

    def compiled_networks(self) -> list[nn.Module]:
        """Networks that may be compiled: no gradient of theirs is differentiated again."""
        return [self.generator]

    # --- sampling -----------------------------------------------------------------------------

    @property
    def image_generator(self) -> nn.Module:
        """Network that makes images of latents: the generator, and what comes after it."""
        return self.generator

    def forward(self, latent: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` for latents ``(N, latent_dim)``."""
        images: Tensor = self.image_generator(latent)
        return images

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, latent_dim)`` latents on the module's device.

        Args:
            n: Number of latents.
            generator: Source of randomness; the noise is drawn on its device. The global one of the
                module's device by default.
        """
        shape, weights = (n, self.latent_dim), next(self.generator.parameters())
        device = weights.device if generator is None else generator.device
        latent = torch.empty(shape, dtype=weights.dtype, device=device)
        if self.latent_distribution == "normal":
            latent.normal_(generator=generator)
        else:
            smallest = -1 if self.latent_distribution == "uniform" else 0
            latent.uniform_(smallest, 1, generator=generator)
        return latent.to(weights.device)

    @property
    def players(self) -> list[Player]:
        """Names of what is trained, the generator first."""
        return list(self._optimizers)

    @property
    def weights_dtype(self) -> torch.dtype:
        """Precision of the generator's weights."""
        return next(self.generator.parameters()).dtype

    @property
    def made_range(self) -> tuple[float, float] | None:
        """Range of values that the generator states or its last activation implies, or None."""
        return stated_range(self.generator)

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
    def noise(self) -> torch.Generator:
        """The run's own stream of noise, on the module's device and the same on every rank."""
        if self._noise is None:
            self._noise = torch.Generator(self.device).manual_seed(torch.initial_seed())
        return self._noise

    def images_of(self, batch: Any) -> Tensor:
        """Images ``(N, C, H, W)`` of a batch.

        It is a tensor; a sequence that begins with one; or a dictionary that has one under
        ``image``. uint8 images become floats in the generator's range; see
        :class:`~lightning_igm.data.adapter.LoaderData`. All come in the precision of the weights:
        Lightning converts batches to it before the data module makes floats of them.

        Raises:
            ValueError: There are none, or of another shape than those before.
        """
        images, data = image_tensor(batch), data_of(self._trainer)
        if isinstance(data, LoaderData):
            data.check(images)
        if images.dtype == torch.uint8:
            value_range = getattr(data, "value_range", None) or self.made_range
            images = as_floats(images, value_range or (0.0, 1.0))
        return images.to(self.weights_dtype)

    # --- updates ------------------------------------------------------------------------------

    def update(self, player: Player, loss: Tensor) -> None:
        """One update of one player: its gradient alone, one reduction over ranks, one step."""
        self.apply_gradients(player, loss, self.gradients_of(player, loss))

    def gradients_of(
        self, player: Player, loss: Tensor, *, retain_graph: bool = False
    ) -> list[Tensor]:
        """Gradient of a loss in one player's parameters alone, reduced over ranks.

        Args:
            player: Whose parameters.
            loss: ``()``.
            retain_graph: Whether another loss of the same passes is still to be differentiated.
        """
        check_loss(player, loss)
        # Autocast would also take what goes back through float32 layers in lower precision.
        with torch.autocast(self.device.type, enabled=False):
            own = torch.autograd.grad(
                loss, self._trained(player), retain_graph=retain_graph, materialize_grads=True
            )
        return mean_gradients(own)

    def apply_gradients(self, player: Player, loss: Tensor, gradients: list[Tensor]) -> None:
        """One step of one player's optimizer, with what :meth:`gradients_of` gave.

        Only the generator's optimizer is stepped through Lightning, which counts it: that makes
        ``trainer.global_step`` the number of generator steps. The others are stepped as plain torch
        optimizers.
        """
        self._watch(player, loss, gradients)
        if self.gradient_clip is not None:
            norms = torch.stack(torch._foreach_norm(gradients))
            factors = (self.gradient_clip / norms).clamp(max=1).nan_to_num(1.0)
            gradients = list(torch._foreach_mul(gradients, list(factors.unbind())))
        for parameter, gradient in zip(self._trained(player), gradients, strict=True):
            parameter.grad = laid_out_like(parameter, gradient)
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
            if self.clock.is_logged_step():
                self.log_now(self.latest)

    def _trained(self, player: Player) -> list[nn.Parameter]:
        network: nn.Module = getattr(self, player)
        return [p for p in network.parameters() if p.requires_grad]

    def log_training(self, values: Mapping[str, Tensor | float]) -> None:
        """Show values of this update in the progress bar, and keep them for the loggers.

        The loggers get the latest of them every ``trainer.log_every_n_steps`` *generator* steps.

        Args:
            values: Numbers, or scalars ``()`` on any device, by name; they are not waited for.

        Raises:
            ValueError: One is none.
        """
        self.latest.update(scalars(values))
        # A loss can be had without a trainer.
        if self._trainer is not None and not self.trainer.barebones:
            # Not for the bar: Lightning would wait for the device after every batch.
            self.log_dict(dict(values), logger=False)

    def log_now(self, values: Mapping[str, Tensor | float]) -> None:
        """Give values to all loggers at once, at this generator step; every rank must call it.

        Args:
            values: Numbers, or scalars ``()``, by name, of which the ranks' mean is taken; the
                device is waited for.

        Raises:
            ValueError: One is none.
        """
        found = scalars(values)
        if world_size() > 1:
            stacked = torch.stack([value.to(self.device).double() for value in found.values()])
            found = dict(zip(found, all_mean(stacked), strict=True))
        metrics = {name: float(value) for name, value in found.items()}
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """One optimizer per player, the generator's first, and their schedules."""
        players = self._optimizers.items()
        optimizers = [
            made_optimizer(player, make, getattr(self, player).parameters())
            for player, (make, _) in players
        ]
        # Before the schedules: one that warms up changes the rate as it is made.
        self._settings = [settings_of(optimizer) for optimizer in optimizers]
        made = zip(players, optimizers, strict=True)
        schedulers = [
            made_schedule(player, make, optimizer)
            for (player, (_, make)), optimizer in made
            if make is not None
        ]
        self._settings += [settings_of(scheduler) for scheduler in schedulers]
        return optimizers, schedulers

    def _schedulers(self) -> Iterable[Any]:
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    # --- checks -------------------------------------------------------------------------------

    def configure_callbacks(self) -> Any:
        """None of its own; but before Lightning checks the loaders, see to one needless warning."""
        # Nothing is validated but by callbacks, which score in training, too.
        message = "You defined a `validation_step` but have no `val_dataloader`"
        warnings.filterwarnings("ignore", message=message)
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Check precision, strategy, compiler, and that the generator makes images like the data's.

        Under several ranks, batch norms are of the global batch from now on.

        Raises:
            ValueError: They do not fit.
        """
        supported_trainer(self.trainer)
        check_takes_images(self, "generator_loss")
        if stage == "fit":
            log_by_generator_steps(self.trainer)
            prepare_callbacks(self.trainer, self)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if self.compiler and stage == "fit":
            check_compiler(self.compiler, self.device)
        if world_size() > 1:
            synchronise_batch_norms(self)
        data = data_of(self.trainer)
        if data is not None:
            self._check_images(*stated_by(data))

    def _check_images(
        self, shape: tuple[int, ...] | None, value_range: tuple[float, float] | None
    ) -> None:
        latent = self.sample_latent(16, torch.Generator().manual_seed(0))
        images = self.try_out("generator", latent, "latents")
        check_images(images, stated_range(self.generator), shape, value_range)

    def try_out(self, player: str, inputs: Tensor, what: str) -> Tensor:
        """Outputs of a network, or one line that says what it does not take."""
        return try_out(player, getattr(self, player), inputs, what)

    def _watch(self, player: Player, loss: Tensor, gradients: list[Tensor]) -> None:
        """Remember the first step that was not finite, without waiting for the device.

        Gradients and loss are those of the global batch: all ranks see the same, and stop together.
        """
        first = self._first_non_finite.get(player)
        if first is None:
            first = torch.full((), _NEVER, device=loss.device)
        norms = torch.stack(torch._foreach_norm(gradients)).sum()
        finite = (all_mean(loss.detach()) + norms).isfinite()
        step = torch.where(finite, _NEVER, self.global_step)
        self._first_non_finite[player] = torch.minimum(first, step)

    def check_finite(self) -> None:
        """Wait for the device and check every loss so far.

        Raises:
            NonFiniteLossError: One was NaN or infinite.
        """
        self._batches_unchecked = 0
        steps = {player: int(first) for player, first in self._first_non_finite.items()}
        if not steps or min(steps.values()) == _NEVER:
            return
        player = min(steps, key=lambda name: steps[name])
        saved = [getattr(c, "last_model_path", "") for c in self.trainer.checkpoint_callbacks]
        good = next((path for path in saved if Path(path).is_file()), "none was saved")
        raise NonFiniteLossError(
            f"{player}_loss is not finite at generator step {steps[player]}; it or its gradient is "
            f"NaN or infinite, and the run stops; last good checkpoint: {good}"
        )

    # --- evaluation loops and state -------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: scores are made by callbacks at the end of the loop."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: scores are made by callbacks at the end of the loop."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """As many generated images ``(N, C, H, W)`` as the batch has."""
        return self.sample(len(picked(batch)), self.noise)

    def on_predict_start(self) -> None:
        """Start a stream of noise of this process's own."""
        self._noise = torch.Generator(self.device).manual_seed(torch.initial_seed() + rank())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run is sound, and keep its stream of noise and its counters.

        Checkpoints of weights only keep the average of them, too, if there is one.
        """
        self.check_finite()
        if "callbacks" not in checkpoint:
            every: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
            averages = [callback for callback in every if getattr(callback, "holds_weights", False)]
            checkpoint["callbacks"] = {each.state_key: each.state_dict() for each in averages}
        checkpoint["training_state"] = self.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the stream of noise and the counters.

        Raises:
            ValueError: There are not all of them.
        """
        if "training_state" not in checkpoint:
            return
        settle_epochs(checkpoint)
        # max_time is that of this process, as a queue counts it.
        checkpoint.get("callbacks", {}).pop("Timer", None)
        with checkpoint_has_all("its training state"):
            self.load_training_state(checkpoint["training_state"])

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond weights and optimizers; plain data and tensors only."""
        noise = self._noise_state if self._noise is None else self._noise.get_state()
        return {
            "noise": noise,
            "latest": self.latest,
            "settings": self._settings,
            "step_before": self.clock.step_before,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up :meth:`training_state`."""
        self._noise_state = state["noise"]
        self.latest = state["latest"]
        self.clock.step_before = state.get("step_before")  # Earlier versions did not keep it.
        self._settings_before = state["settings"]
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.configure_optimizers()
            check_classes(self._settings_before, self._settings)

    def on_fit_start(self) -> None:
        """Start the run's stream of noise, or go on with it; compile networks if asked to."""
        if self.compiler:
            compile_in_place(self.compiled_networks(), self.compiler)
        seed = torch.initial_seed()
        if world_size() > 1:  # Without seed_everything every rank has a seed of its own.
            seed = self.trainer.strategy.broadcast(seed)
        self._noise = torch.Generator(self.device).manual_seed(seed)
        if self._noise_state is not None:
            try:
                self._noise.set_state(self._noise_state)
            except RuntimeError:
                rank_zero_warn(
                    "The checkpoint comes from another kind of device, whose stream of noise "
                    f"cannot go on on {self.device.type}: the run goes on with fresh noise."
                )
                self._noise.manual_seed(seed + self.global_step)
            self._noise_state = None

    def on_train_start(self) -> None:
        """Let what is configured now win over what the checkpoint was."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            lay_out_state(optimizer)
        restored = [*optimizers, *self._schedulers()]
        apply_changes(restored, self._settings_before, self._settings)
        warn_of_rising_rates(restored, self.trainer.max_steps)
        count_as_saved(self.trainer)
        self._settings_before = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Mark the start of the batch's updates; and look for bad losses now and then."""
        self.in_training_step = True
        self.clock.step_before = self.global_step
        if self._batches_unchecked == _CHECK_LOSSES_EVERY:
            self.check_finite()
        self._batches_unchecked += 1

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop here if asked to: the callbacks are done with the batch."""
        tell_monitors(self.trainer, self)
        if self.stop_by is not None:
            raise self.stop_by

    def on_train_epoch_end(self) -> None:
        """Refuse a loader that gave nothing."""
        if isinstance(data := data_of(self.trainer), LoaderData):
            data.check_epoch()

    def on_train_end(self) -> None:
        """Check the losses since the last save; log the last step of a run too short for a row.

        The last checkpoint is saved before, and a continued run drops this row.
        """
        self.check_finite()
        if 0 < self.global_step < self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self.log_now(self.latest)
