"""Smaller learning rates when samples stop getting closer to the data."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_igm.callbacks.decay_rule import DecayRule
from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.checks import above_zero, checkpoint_has_all, non_negative, positive
from lightning_igm.evaluation.images import (
    are_digits,
    data_name,
    digit_extractor,
    image_data,
    random_images,
)
from lightning_igm.evaluation.samples import generated_features, measurement
from lightning_igm.metrics.extractors import extract, prepare
from lightning_igm.metrics.three_sample import KernelSums, kernel_sums, three_sample_test

__all__ = ["DecayRule", "KIDLearningRate"]


class KIDLearningRate(Callback):
    """Decay the learning rates of all optimizers when the KID stops falling.

    The rule of "Demystifying MMD GANs" (Bińkowski et al., 2018, https://arxiv.org/abs/1801.01401,
    section 5) as "On gradient regularizers for MMD GANs" (Arbel et al., 2018,
    https://arxiv.org/abs/1805.11565) trains by it. Every ``every_n_steps`` generator steps, step 0
    included, as many fresh samples are generated as there are real images to compare with, and
    tested against the oldest of the last ``memory`` sets of samples (see
    :func:`~lightning_igm.metrics.three_sample.three_sample_test`). If they are closer to the real
    images, at ``level``, they take the place of the oldest; after ``patience`` tests in a row that
    do not show that, ``lr = max(factor * lr, floor)`` for all optimizers, and the last ``patience``
    sets are remembered. Optimizers keep their other state.

    Samples come from the averaged generator if there is one (see
    :class:`~lightning_igm.callbacks.ema.GeneratorEMA`). Measuring does not change training by a
    bit. Checkpoints hold the memory, the failures and the real features (16 MiB for 2,048 of 2,048
    dimensions): a continued run decides what the run without a break would have decided.

    Loggers get ``three_sample_stat`` with every test, and ``learning_rate`` (the generator's).

    Args:
        every_n_steps: Generator steps between two tests.
        num_samples: Number m of generated images, and of real ones: a random choice of the training
            set, the same in the whole run.
        patience: Failed tests in a row that make a decay, and sets remembered after one.
        memory: Sets to remember before there is a test.
        factor: What a decay multiplies learning rates by.
        floor: Smallest learning rate that a decay makes.
        level: Largest p of an improvement.
        variance_floor: Smallest variance that the test divides by. At 1e-5 an improvement is a KID
            lower by 0.00405 or more wherever the estimated variance is smaller; 0 is no floor.
        extractor: Maps uint8 images ``(N, C, H, W)`` to features ``(N, D)``, or to a tuple that
            begins with them; run in float32 and eval mode. None is the digit classifier that ships
            with this package, on data sets of digits.
        batch_size: Images generated at a time.
        seed: Seed of the latents, of which every test draws others, and of the choice of the real
            images.
        coefficient_factor: What a decay multiplies the module's ``coefficient`` by: s of SMMDGAN
            and SWGAN.

    Attributes:
        decays: Generator steps at which learning rates were decayed.

    Raises:
        ValueError: A number is out of range; the data are not digits and there is no extractor; an
            optimizer has a schedule; there are fewer training images than ``num_samples``; or the
            module has no ``coefficient`` to multiply.

    Example:
        >>> rule = KIDLearningRate(every_n_steps=500, num_samples=1000)
        >>> rule.decays
        []
    """

    def __init__(
        self,
        every_n_steps: int = 2000,
        num_samples: int = 2048,
        patience: int = 3,
        memory: int = 10,
        factor: float = 0.8,
        floor: float = 1e-6,
        level: float = 0.1,
        variance_floor: float = 1e-5,
        extractor: nn.Module | None = None,
        batch_size: int = 500,
        seed: int = 0,
        coefficient_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.every_n_steps = positive("KIDLearningRate.every_n_steps", every_n_steps)
        if num_samples < 3:
            raise ValueError(
                f"KIDLearningRate.num_samples: {num_samples} is not allowed; it must be 3 or more"
            )
        if not 0 < factor < 1:
            raise ValueError(
                f"KIDLearningRate.factor: {factor} is not allowed; it must be between 0 and 1"
            )
        self.num_samples = num_samples
        self.factor = factor
        self.floor = non_negative("KIDLearningRate.floor", floor)
        self.variance_floor = non_negative("KIDLearningRate.variance_floor", variance_floor)
        self.extractor = extractor
        self.batch_size = positive("KIDLearningRate.batch_size", batch_size)
        self.seed = seed
        self.coefficient_factor = above_zero(
            "KIDLearningRate.coefficient_factor", coefficient_factor
        )
        self.decays: list[int] = []
        self._rule: DecayRule[KernelSums] = DecayRule(patience, memory, level)
        self._real: Tensor | None = None
        self._step = 0
        self._coefficient = 1.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there are an extractor and, if it is to change, a coefficient.

        Raises:
            ValueError: There is no extractor for these data, or no coefficient.
        """
        if stage != "fit":
            return
        if self.coefficient_factor != 1:
            if not hasattr(pl_module, "coefficient"):
                raise ValueError(
                    f"KIDLearningRate.coefficient_factor: {self.coefficient_factor} is not allowed "
                    f"with {type(pl_module).__name__}, which has no coefficient; it must be 1"
                )
            self._coefficient = cast(float, pl_module.coefficient)
        if self.extractor is None and not are_digits(trainer):
            raise ValueError(
                "KIDLearningRate.extractor: null is not allowed with "
                f"{data_name(trainer)}, which the digit classifier's features do not suit; give a "
                "module that maps uint8 images (N, C, H, W) to features (N, D)"
            )
        if self.extractor is None:
            self.extractor = digit_extractor(trainer)
        prepare(self.extractor)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work, before anything is written; extract the real features.

        Raises:
            ValueError: An optimizer has a schedule, or there are too few training images.
        """
        if trainer.lr_scheduler_configs:
            kind = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise ValueError(
                f"KIDLearningRate: a schedule ({kind}) sets the learning rates already; set "
                "generator_scheduler and critic_scheduler to null, or leave this callback out"
            )
        if self._real is not None and len(self._real) != self.num_samples:
            rank_zero_warn(
                f"KIDLearningRate.num_samples: {len(self._real)} in the checkpoint, "
                f"{self.num_samples} now: the rule starts with an empty memory"
            )
            self._real = None
            self._rule.past, self._rule.failures = [], 0
        if self._real is None:
            device, extractor = pl_module.device, cast(nn.Module, self.extractor)
            with measurement(device, self.seed):
                images = random_images(image_data(trainer), device, self.num_samples, self.seed)
                real = torch.cat([extract(extractor, batch)[0] for batch in images])
            if len(real) < self.num_samples:
                raise ValueError(
                    f"KIDLearningRate.num_samples: {self.num_samples} is not allowed; there are "
                    f"{len(real)} training images"
                )
            self._real = real.cpu()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure step 0."""
        self._step = trainer.global_step
        self._set_coefficient(pl_module)
        if self._step == 0 and not self._rule.past:
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure if this batch reached a multiple of ``every_n_steps``."""
        before, self._step = self._step, trainer.global_step
        if self._step // self.every_n_steps > before // self.every_n_steps:
            self._measure(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module the coefficient that it was made with: another fit begins with it."""
        if stage == "fit" and self.coefficient_factor != 1:
            pl_module.coefficient = self._coefficient  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        """Return all that decisions depend on."""
        return {
            "past": [sums._asdict() for sums in self._rule.past],
            "failures": self._rule.failures,
            "real": self._real,
            "decays": list(self.decays),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up :meth:`state_dict`."""
        with checkpoint_has_all(f"the state of {type(self).__name__}"):
            self._rule.past = [KernelSums(**sums) for sums in state_dict["past"]]
            self._rule.failures = state_dict["failures"]
            self._real = state_dict["real"]
            self.decays = list(state_dict["decays"])

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the rule take in fresh samples, and decay if it says so."""
        sums = self._fresh_sums(trainer, pl_module)
        if not all(values.isfinite().all() for values in sums):
            rank_zero_warn("KIDLearningRate: samples are not finite; they are not tested")
            return
        logged: dict[str, float] = {}

        def p(new: KernelSums, old: KernelSums) -> float:
            test = three_sample_test(new, old, self.variance_floor)
            logged["three_sample_stat"] = float(test.stat)
            return float(test.p)

        if self._rule.update(sums, p):
            self.decays.append(trainer.global_step)
            self._decay(trainer)
            self._set_coefficient(pl_module)
        logged["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)

    def _fresh_sums(self, trainer: Trainer, pl_module: LightningModule) -> KernelSums:
        """Sums of samples that no earlier test has seen; those of rank 0, on the CPU."""
        real = cast(Tensor, self._real)
        device = pl_module.device
        # Draws of different steps must be independent: the test's variance takes them to be.
        seed = self.seed + trainer.global_step
        with measurement(device, seed), evaluation_weights(trainer, pl_module):
            fake = generated_features(
                cast(nn.Module, self.extractor),
                pl_module,
                image_data(trainer).value_range,
                num_samples=self.num_samples,
                batch_size=self.batch_size,
                seed=seed,
            )
            sums = kernel_sums(real.to(device), fake)
        return KernelSums(*trainer.strategy.broadcast([values.cpu() for values in sums]))

    def _decay(self, trainer: Trainer) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # A rate that was set below the floor stays where it is.
                group["lr"] = min(group["lr"], max(self.factor * group["lr"], self.floor))
        rates = ", ".join(f"{o.param_groups[0]['lr']:.3g}" for o in trainer.optimizers)
        rank_zero_info(f"KIDLearningRate: learning rates {rates} from step {trainer.global_step}")

    def _set_coefficient(self, pl_module: LightningModule) -> None:
        if self.coefficient_factor != 1:
            share = self.coefficient_factor ** len(self.decays)
            pl_module.coefficient = self._coefficient * share  # type: ignore[assignment]
