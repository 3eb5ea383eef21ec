"""Moving average of the generator's weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_igm.checks import checkpoint_has_all


class GeneratorEMA(Callback):
    """Keep an exponential moving average of the generator for grids, scores and sampling.

    After every generator step, ``average = decay * average + (1 - decay) * weights``, as in
    "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (Karras et al.,
    2018, https://arxiv.org/abs/1710.10196) and "The Unusual Effectiveness of Averaging in GAN
    Training" (Yazici et al., 2019, https://arxiv.org/abs/1806.04498). Float buffers (running
    statistics) are averaged too, integer buffers are copied. Training itself never sees the
    average. The average is saved in checkpoints as the state of this callback.

    Args:
        decay: Weight of the past in [0, 1); None switches the callback off.
        start_step: Generator step at which the average starts, as a copy of the weights.

    Raises:
        ValueError: If ``decay`` or ``start_step`` is out of its range.

    Example:
        >>> ema = GeneratorEMA(decay=0.99)
        >>> ema.state_dict()
        {}
    """

    holds_weights = True  # Its state belongs in checkpoints of weights only, too.

    def __init__(self, decay: float | None = 0.999, start_step: int = 0) -> None:
        super().__init__()
        if decay is not None and not 0.0 <= decay < 1.0:
            raise ValueError(f"{type(self).__name__}: decay must be in [0, 1) or None, got {decay}")
        if start_step < 0:
            raise ValueError(
                f"{type(self).__name__}: start_step must be at least 0, got {start_step}"
            )
        self.decay = decay
        self.start_step = start_step
        self._average: dict[str, Tensor] | None = None
        self._last_step = 0

    def update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the generator step that was just made; nothing if there was none."""
        if self.decay is None or trainer.global_step <= self._last_step:
            return
        self._last_step = trainer.global_step
        if self._average is None:
            self._start_if_due(trainer, pl_module)
            return
        live = _tensors(pl_module)
        floats = [name for name, tensor in live.items() if tensor.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_(
                [self._average[name] for name in floats],
                [live[name] for name in floats],
                1.0 - self.decay,
            )
            for name in live.keys() - set(floats):
                self._average[name].copy_(live[name])

    @contextmanager
    def average(self, pl_module: LightningModule) -> Iterator[None]:
        """Run the body with the averaged weights in ``pl_module.generator``.

        The trained weights are back afterwards, bit for bit, also after an exception. Before the
        average has started the generator is left as it is.

        Args:
            pl_module: The module whose ``generator`` is averaged.

        Raises:
            ValueError: If the average belongs to another generator.
        """
        if self.decay is None or self._average is None:
            yield
            return
        live = _tensors(pl_module)
        _check_match(self._average, live)
        trained = {name: tensor.clone() for name, tensor in live.items()}
        try:
            _copy(self._average, live)
            yield
        finally:
            _copy(trained, live)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the average, or bring a restored one to the generator's device."""
        if self.decay is None:
            return
        self._last_step = trainer.global_step
        if self._average is None:
            self._start_if_due(trainer, pl_module)
            return
        live = _tensors(pl_module)
        _check_match(self._average, live)
        self._average = {name: self._average[name].to(live[name]) for name in live}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the average if this batch made a generator step."""
        self.update(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the average by tensor name; empty before it has started."""
        return {} if self._average is None else {"average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over an average from a checkpoint."""
        with checkpoint_has_all(f"the state of {type(self).__name__}"):
            self._average = dict(state_dict["average"])

    def _start_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step >= self.start_step:
            self._average = {name: tensor.clone() for name, tensor in _tensors(pl_module).items()}


@contextmanager
def evaluation_weights(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Run the body with the weights to evaluate: the average if there is one, else as trained.

    Looks for an active :class:`GeneratorEMA` among the trainer's callbacks, and lets it take in the
    last step first, so that the order of the callbacks does not matter.

    Args:
        trainer: The trainer whose callbacks are searched.
        pl_module: The module whose ``generator`` is to be evaluated.
    """
    ema = _active(trainer)
    if ema is None:
        yield
        return
    ema.update(trainer, pl_module)
    with ema.average(pl_module):
        yield


def has_average(trainer: Trainer) -> bool:
    """Whether :func:`evaluation_weights` are averaged ones."""
    ema = _active(trainer)
    return ema is not None and bool(ema.state_dict())


def _active(trainer: Trainer) -> GeneratorEMA | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GeneratorEMA) and callback.decay is not None:
            return callback
    return None


def _tensors(pl_module: LightningModule) -> dict[str, Tensor]:
    """Collect the generator's parameters and buffers, without autograd history."""
    generator = pl_module.generator
    if not isinstance(generator, nn.Module):
        raise ValueError(f"generator must be a torch module, got {type(generator).__name__}")
    named = (*generator.named_parameters(), *generator.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _check_match(average: dict[str, Tensor], live: dict[str, Tensor]) -> None:
    shapes = {name: tensor.shape for name, tensor in average.items()}
    if shapes != {name: tensor.shape for name, tensor in live.items()}:
        raise ValueError(
            "the averaged weights in the checkpoint do not fit the generator: "
            "load a checkpoint of the same generator, or set decay to null"
        )
