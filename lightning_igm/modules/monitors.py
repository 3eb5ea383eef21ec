"""Lightning's callbacks on generator steps and scores; those that cannot work are refused."""

from collections import defaultdict
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_igm.modules.clock import GeneratorClock
from lightning_igm.modules.declared import declared

__all__ = [
    "check_callback",
    "check_callback_path",
    "count_as_saved",
    "prepare_callbacks",
    "tell_monitors",
]

_WHOLE = "it freezes parts of a network; set requires_grad in the network's __init__"
_AVERAGE = "it averages critics too, and scores would not see it; use --ema.decay"
_REFUSED = {
    "BackboneFinetuning": _WHOLE,
    "BaseFinetuning": _WHOLE,
    "BatchSizeFinder": "the loss depends on the batch size; set data.batch_size",
    "EMAWeightAveraging": _AVERAGE,
    "GradientAccumulationScheduler": "losses of a batch are no sums over its parts; set "
    "data.batch_size",
    "LearningRateFinder": "it needs a single optimizer; try rates of generator_optimizer and "
    "critic_optimizer in a sweep",
    "ModelPruning": "a critic's pruned weights change its loss; prune an exported generator",
    "OnExceptionCheckpoint": "checkpoints/last.ckpt is saved where a run is stopped",
    "SpikeDetection": "it needs a single loss; losses that are not finite stop the run already",
    "StochasticWeightAveraging": _AVERAGE,
    "WeightAveraging": _AVERAGE,
}


def check_callback(kind: type) -> None:
    """Check that a callback can work with methods that have several optimizers.

    Raises:
        ValueError: It cannot.
    """
    for base in kind.__mro__:
        if base.__name__ in _REFUSED and base.__module__.startswith("lightning."):
            raise ValueError(
                f"trainer.callbacks: {kind.__name__} is not allowed ({_REFUSED[base.__name__]})"
            )


def check_callback_path(class_path: str) -> None:
    """Check a callback by its class path, before it is made of arguments that it may not take.

    Raises:
        ValueError: It cannot work.
    """
    package, _, name = class_path.rpartition(".")
    if name in _REFUSED and package.partition(".")[0] in ("", "lightning"):
        check_callback(getattr(callbacks, name))


def prepare_callbacks(trainer: Trainer, module: LightningModule) -> None:
    """Check a run's callbacks and what they monitor, and have Lightning's act without validation.

    Raises:
        ValueError: One cannot work, or monitors what is not made.
    """
    for callback in _callbacks(trainer):
        check_callback(type(callback))
        if type(callback) is LearningRateMonitor:
            callback.__class__ = _RatesOfPlayers
        if isinstance(callback, EarlyStopping) and callback.monitor in _scores(trainer):
            callback._check_on_train_epoch_end = False
        elif isinstance(callback, ModelCheckpoint):
            if callback._train_time_interval is not None:
                raise ValueError(
                    "ModelCheckpoint.train_time_interval: "
                    f"{callback._train_time_interval} is not allowed; use every_n_train_steps"
                )
            if callback.monitor is None and callback._save_on_train_epoch_end is None:
                callback._save_on_train_epoch_end = True
    for callback in _monitoring(trainer):
        _check_monitor(callback, trainer, module)


def tell_monitors(trainer: Trainer, module: LightningModule) -> None:
    """Let callbacks that monitor a value look at it, once for each time that it was made.

    Scores are made at their own cadence, everything else whenever loggers are due. Lightning's
    callbacks would look at the end of a validation, which there is none of in training.
    """
    clock = cast(GeneratorClock, module.clock)
    step = trainer.global_step
    if step in (clock.step_before, clock.told):
        return
    clock.told = step
    fresh = {name for c in _evaluations(trainer) if c.scored_at == step for name in c.columns}
    for callback in _monitoring(trainer):
        made = callback.monitor in fresh or (
            callback.monitor not in _scores(trainer) and clock.is_logged_step()
        )
        if made and callback.monitor in trainer.callback_metrics:
            callback.on_validation_end(trainer, module)
            # A resumed run still has the message of the stop before.
            if isinstance(callback, EarlyStopping) and trainer.should_stop:
                rank_zero_info(callback.stopping_reason_message)


def count_as_saved(trainer: Trainer) -> None:
    """Count the step that a run goes on from as saved.

    Otherwise the next batch, if it is a critic step, would overwrite its checkpoint.
    """
    for callback in _callbacks(trainer):
        if isinstance(callback, ModelCheckpoint):
            callback._last_global_step_saved = trainer.global_step


class _RatesOfPlayers(LearningRateMonitor):
    """Calls rates ``lr-generator`` and ``lr-critic``, where Lightning's counts ``lr-Adam-1``."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        players = zip(trainer.optimizers, cast(Any, trainer).lightning_module.players, strict=True)
        self._names = {id(optimizer): f"lr-{player}" for optimizer, player in players}
        super().on_train_start(trainer, *args, **kwargs)

    def _check_duplicates_and_update_name(
        self, optimizer: Any, name: str, seen: Any, seen_types: Any, config: Any
    ) -> list[str]:
        return super()._check_duplicates_and_update_name(
            optimizer, self._names[id(optimizer)], seen, defaultdict(int), config
        )


def _check_monitor(callback: Any, trainer: Trainer, module: LightningModule) -> None:
    losses = [f"{player}_loss" for player in cast(Any, module).players]
    made = [*_scores(trainer), *losses, *declared(module, "logged")]
    own = all(_is_ours(kind) for kind in map(type, [module, *_callbacks(trainer)]))
    name: str = callback.monitor
    if name in (*made, "step", "epoch") or name.startswith("lr-") or not own:
        return
    shown = [each for each in made if not each.endswith("_std")]
    hint = "" if _scores(trainer) else " (scores: metrics.every_n_steps and data that have them)"
    raise ValueError(
        f"{type(callback).__name__}.monitor: {name!r} is not allowed; it must be "
        f"{', '.join(shown)}{hint}"
    )


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("lightning", "lightning_igm")


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _monitoring(trainer: Trainer) -> list[Any]:
    return [
        callback
        for callback in _callbacks(trainer)
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None
    ]


def _evaluations(trainer: Trainer) -> list[Any]:
    """Callbacks that make scores in this run."""
    return [callback for callback in _callbacks(trainer) if hasattr(callback, "scored_at")]


def _scores(trainer: Trainer) -> list[str]:
    return [name for callback in _evaluations(trainer) for name in callback.columns]
