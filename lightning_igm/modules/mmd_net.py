"""MMD network: a generator that matches moments by a fixed kernel, without a critic."""

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD

from lightning_igm.distributed import mean_gradients, world_size
from lightning_igm.losses.jacobians import global_rows
from lightning_igm.losses.kernels import Gaussian, Kernel
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.ratio import mmd_root
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.players import Player, optimizer_of
from lightning_igm.modules.pretraining import (
    AutoencoderTraining,
    check_momenta,
    momentum_at,
    set_momentum,
)
from lightning_igm.modules.set_up import stated_range
from lightning_igm.networks.autoencoder import Autoencoder

__all__ = ["MMDNet"]


class MMDNet(ImplicitGenerativeModule):
    """Generative moment matching network, in the space of the data or of an autoencoder's codes.

    "Generative Moment Matching Networks" (Li, Swersky and Zemel, ICML 2015,
    https://arxiv.org/abs/1502.02761), with a kernel k that does not learn, on values or on codes::

        L_G = sqrt(MMD^2_b + 1e-6),
        MMD^2_b = mean_ij k(x_i, x_j) - 2 mean_ij k(x_i, y_j) + mean_ij k(y_i, y_j)

    The published kernels are sums of Gaussians, whose bandwidths h are given as variances h^2.

    In the space of codes, the first steps of a run train the autoencoder, which is frozen then; the
    run's clock stands still until the generator begins to step. The generator makes codes, and
    images are the decoder's.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``, or to codes
            ``(N, code_dim)`` in [0, 1].
        kernel: k, on flattened images or on codes; a Gaussian of bandwidth 1 by default.
        root: Whether L_G is the root, or MMD^2_b itself.
        momentum: Momentum of the generator's optimizer from each of these generator steps on, for
            optimizers that have one.
        autoencoder: Its codes are the space of the kernel; None for the space of the data.
        pretraining: How the autoencoder is trained; as published by default.
        **kwargs: The arguments of
            :class:`~lightning_igm.modules.base.ImplicitGenerativeModule`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.losses.kernels import Gaussian, Sum
        >>> from lightning_igm.networks import MLPGenerator
        >>> kernel = Sum([Gaussian(h) for h in (1.0, 5.0, 10.0)])
        >>> model = MMDNet(MLPGenerator(latent_dim=4, image_shape=(2,)), kernel)
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """

    logged = ("discrepancy", "autoencoder_loss")
    kept = ("autoencoder_steps_taken",)

    def __init__(
        self,
        generator: nn.Module,
        kernel: Kernel | None = None,
        root: bool = True,
        momentum: dict[int, float] | None = None,
        autoencoder: Autoencoder | None = None,
        pretraining: AutoencoderTraining | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.kernel = kernel or Gaussian(1.0)
        self.root = root
        self.momentum = check_momenta("momentum", momentum or {})
        self.autoencoder = autoencoder
        self.pretraining = pretraining or AutoencoderTraining()
        self.autoencoder_steps_taken = 0
        if autoencoder is not None:
            self.players["autoencoder"] = Player(partial(SGD, lr=self.pretraining.lr))

    @property
    def image_generator(self) -> nn.Module:
        """The generator, and the decoder if it makes codes."""
        if self.autoencoder is None:
            return self.generator
        return _Decoded(self.generator, self.autoencoder)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One generator step, or some steps of an autoencoder that is not trained yet."""
        real = self.images_of(batch)
        if not self.autoencoder_steps_due():
            self.generator_step(real)
            return
        # Every parts-th row of each rank: the rows that one process would take of all.
        parts = max(1, real.shape[0] * world_size() // self.pretraining.batch_size)
        if world_size() > 1 and real.shape[0] % parts:
            raise ValueError(
                f"pretraining.batch_size: {self.pretraining.batch_size} is not allowed with "
                f"batches of {real.shape[0]} on {world_size()} processes; it makes {parts} parts "
                f"of the global batch, and {real.shape[0]} must be a multiple of that"
            )
        for part in range(min(parts, self.autoencoder_steps_due())):
            self.autoencoder_step(real[part::parts])

    def generator_step(self, real: Tensor) -> None:
        """Update the generator once, on images or on their codes."""
        if self.momentum:
            optimizer = optimizer_of(self, self.players, "generator", counted=False)
            set_momentum(optimizer, momentum_at(self.momentum, self.global_step))
        if self.autoencoder is not None:
            with torch.no_grad():
                real = self.autoencoder.encode(real)
        made = self.generator(self.training_latent(real.shape[0]))
        self.update("generator", self.generator_loss(real, made))

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G of images ``(N, C, H, W)``, or of codes ``(N, code_dim)``."""
        squared = mmd2(self.kernel, real.flatten(1), fake.flatten(1), estimator="biased")
        self.log_training({"discrepancy": squared})
        return mmd_root(squared) if self.root else squared

    # --- the autoencoder ------------------------------------------------------------------------

    def autoencoder_steps_due(self) -> int:
        """Steps of the autoencoder before the generator's first."""
        if self.autoencoder is None:
            return 0
        return self.pretraining.steps(self.autoencoder.depth) - self.autoencoder_steps_taken

    def autoencoder_step(self, images: Tensor) -> None:
        """Update some of the autoencoder's layers once, to reconstruct what they are given."""
        autoencoder = cast(Autoencoder, self.autoencoder)
        levels, momentum, begins = self.pretraining.stage(
            self.autoencoder_steps_taken, autoencoder.depth
        )
        optimizer = optimizer_of(self, self.players, "autoencoder", counted=False)
        if begins:
            optimizer.state.clear()
        set_momentum(optimizer, momentum)
        with torch.no_grad():
            targets = autoencoder.encode(images, depth=levels.start)
        logits = autoencoder.reconstruct(targets, levels, self._dropped)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        loss = losses.sum(1).mean()
        self.log_training({"autoencoder_loss": loss})
        parameters = autoencoder.parameters_of(levels)
        gradients = mean_gradients(torch.autograd.grad(loss, parameters))
        self.finite_losses.watch("autoencoder", loss, gradients, self.global_step)
        scale = (self.pretraining.max_gradient_norm / get_total_norm(gradients)).clamp(max=1)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * scale
        optimizer.step()
        optimizer.zero_grad()
        self.autoencoder_steps_taken += 1

    def _dropped(self, hidden: Tensor, rate: float) -> Tensor:
        """Dropout of the global batch, from the run's own stream of noise."""

        def draw(rows: int) -> Tensor:
            return torch.rand((rows, hidden.shape[1]), generator=self.noise, device=hidden.device)

        if rate == 0:
            return hidden
        kept = global_rows(hidden.shape[0], draw) >= rate
        return hidden * kept / (1 - rate)

    # --- checks ----------------------------------------------------------------------------------

    def _check_images(
        self, shape: tuple[int, ...] | None, value_range: tuple[float, float] | None
    ) -> None:
        if self.autoencoder is None:
            super()._check_images(shape, value_range)
            return
        latent = self.sample_latent(16, torch.Generator().manual_seed(0))
        made, expected = self.try_out("generator", latent, "latents"), (self.autoencoder.code_dim,)
        if tuple(made.shape[1:]) != expected:
            raise ValueError(
                f"generator: it makes {tuple(made.shape[1:])} and the autoencoder's codes are "
                f"{expected}; set both to the same size"
            )
        if shape is not None and self.autoencoder.image_shape != tuple(shape):
            raise ValueError(
                f"autoencoder: its images are {self.autoencoder.image_shape} and the data's are "
                f"{tuple(shape)}; set both to the same size"
            )
        for what, found in (
            ("data.value_range", value_range),
            ("generator", stated_range(self.generator)),
        ):
            if found is not None and tuple(found) != (0.0, 1.0):
                raise ValueError(
                    f"{what}: values in {list(found)} are not allowed with an autoencoder; images "
                    "and codes must be in [0, 1]"
                )


class _Decoded(nn.Module):
    """A generator of codes, and their decoder."""

    def __init__(self, generator: nn.Module, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.generator = generator
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(self.generator(latent))
