"""Lightning's hooks around the updates: checks, noise, logs by generator steps, checkpoints."""

import warnings
from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor, nn

from lightning_igm.checks import checkpoint_has_all
from lightning_igm.data.adapter import LoaderData, data_of, stated_by
from lightning_igm.modules.clock import GeneratorClock
from lightning_igm.modules.compilation import compile_in_place
from lightning_igm.modules.declared import declared
from lightning_igm.modules.earlier_versions import checkpoint_of_now
from lightning_igm.modules.finite import FiniteLosses
from lightning_igm.modules.logged_values import mean_values, scalars
from lightning_igm.modules.monitors import tell_monitors
from lightning_igm.modules.noise import NoiseStream
from lightning_igm.modules.resume import ContinuedSettings, settle_epochs
from lightning_igm.modules.set_up import check_generator, prepare, try_out

__all__ = ["RunHooks"]


class RunHooks(LightningModule):
    """Lightning's hooks, as all methods need them and none of their algorithms does.

    Args:
        compiler: Whether to compile networks that train; or the name of a backend.
        channels_last: Whether convolutions' weights lie channels last in memory.
    """

    generator: nn.Module
    logged: tuple[str, ...] = ()
    """Names that this class gives to :meth:`log_training`, beyond its bases and the losses."""
    kept: tuple[str, ...] = ()
    """Attributes that this class, beyond its bases, keeps in checkpoints: plain data, tensors."""

    def __init__(self, compiler: bool | str = False, channels_last: bool = False) -> None:
        super().__init__()
        self.compiler = compiler
        self.channels_last = channels_last
        self.finite_losses, self.continued_settings = FiniteLosses(), ContinuedSettings()
        self.clock, self.noise_stream = GeneratorClock(self), NoiseStream()
        self.latest: dict[str, Tensor] = {}
        """Latest value of everything given to :meth:`log_training`."""
        self.in_training_step = False
        """Whether the run is between the start of a batch and the end of all that belongs to it."""
        self.stop_by: type[BaseException] | None = None
        """Exception to raise after the batch, if the run is to stop."""

    def configure_callbacks(self) -> list[Callback]:
        """Callbacks of every run, unless an earlier run of this trainer added them."""
        # Nothing is validated but by callbacks, which score in training, too.
        message = "You defined a `validation_step` but have no `val_dataloader`"
        warnings.filterwarnings("ignore", message=message)
        there: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [own for own in (self.finite_losses, self.continued_settings) if own not in there]

    def setup(self, stage: str) -> None:
        """Check precision, strategy, compiler, and that the generator makes images like the data's.

        Under several ranks, batch norms are of the global batch from now on.

        Raises:
            ValueError: They do not fit.
        """
        prepare(self, stage, compiler=self.compiler, channels_last=self.channels_last)
        data = data_of(self.trainer)
        if data is not None:
            self._check_images(*stated_by(data))

    def _check_images(
        self, shape: tuple[int, ...] | None, value_range: tuple[float, float] | None
    ) -> None:
        check_generator(self, shape, value_range)

    def try_out(self, player: str, inputs: Tensor, what: str) -> Tensor:
        """Outputs of a network, or one line that says what it does not take."""
        return try_out(player, getattr(self, player), inputs, what)

    def compiled_networks(self) -> list[nn.Module]:
        """Networks that may be compiled: no gradient of theirs is differentiated again."""
        return [self.generator]

    @property
    def noise(self) -> torch.Generator:
        """The run's own stream of noise, on the module's device and the same on every rank."""
        return self.noise_stream.on(self.device)

    def on_fit_start(self) -> None:
        """Start the run's stream of noise, or go on with it; compile networks if asked to."""
        if self.compiler:
            compile_in_place(self.compiled_networks(), self.compiler)
        self.noise_stream.begin(self)
        for name in declared(self, "kept"):  # A checkpoint's are on the CPU.
            setattr(self, name, move_data_to_device(getattr(self, name), self.device))

    def on_predict_start(self) -> None:
        """Start a stream of noise of this process's own."""
        self.noise_stream.begin_on_rank(self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Mark the start of the batch's updates."""
        self.in_training_step = True
        self.clock.step_before = self.global_step

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
        """Log the last step of a run too short for a row.

        The last checkpoint is saved before, and a continued run drops this row.
        """
        if 0 < self.global_step < self.clock.every:
            self.log_now(self.latest)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: scores are made by callbacks at the end of the loop."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: scores are made by callbacks at the end of the loop."""

    @_restricted_classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, for checkpoints of earlier versions too."""
        kind, checkpoint = checkpoint_of_now(cls, checkpoint_path, kwargs)
        lightnings = cast(Any, super(RunHooks, kind))
        model: Self = lightnings.load_from_checkpoint(checkpoint, *args, **kwargs)
        return model

    # --- logs -----------------------------------------------------------------------------------

    def log_training(self, values: Mapping[str, Tensor | float]) -> None:
        """Show values of this update in the progress bar, and keep them for the loggers.

        The loggers get the latest of them every ``trainer.log_every_n_steps`` *generator* steps.

        Args:
            values: Numbers, or scalars ``()`` on any device, by name; they are not waited for.

        Raises:
            ValueError: One is none.
        """
        self.latest.update(scalars(values))

    def log_now(self, values: Mapping[str, Tensor | float]) -> None:
        """Give values to all loggers at once, at this generator step; every rank must call it.

        Args:
            values: Numbers, or scalars ``()``, by name, of which the ranks' mean is taken; the
                device is waited for.

        Raises:
            ValueError: One is none.
        """
        metrics = mean_values(values, self.device)
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)

    # --- checkpoints ----------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """State that a resumed run needs beyond weights and optimizers: plain data and tensors."""
        of_all = {
            "noise": self.noise_stream.state(),
            "latest": self.latest,
            "step_before": self.clock.step_before,
        }
        return of_all | {name: getattr(self, name) for name in declared(self, "kept")}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up :meth:`training_state`."""
        self.noise_stream.restore(state["noise"])
        self.latest = state["latest"]
        self.clock.step_before = state.get("step_before")  # Earlier versions did not keep it.
        for name in declared(self, "kept"):
            setattr(self, name, state[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run is sound, and keep its stream of noise and its counters.

        Checkpoints of weights only keep the average of them, too, if there is one.
        """
        self.finite_losses.check_finite(self.trainer)
        if "callbacks" not in checkpoint:
            every: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
            averages = [callback for callback in every if getattr(callback, "holds_weights", False)]
            checkpoint["callbacks"] = {each.state_key: each.state_dict() for each in averages}
        checkpoint.setdefault("training_state", {}).update(self.training_state())

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
