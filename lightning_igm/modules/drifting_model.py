"""Drifting model: a generator that regresses its images onto where a field moves them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.checks import above_zero
from lightning_igm.losses.drifting import drifting_loss_and_drifts
from lightning_igm.losses.fields import Field, TwoSidedField
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.encoders import FrozenEncoder, check_same_encoder

__all__ = ["DriftingModel"]


class DriftingModel(ImplicitGenerativeModule):
    """A generator and nothing else: no critic, and one pass of the network for a sample.

    "Generative Modeling via Drifting" (Deng, Li, Li, Du and He, 2026,
    https://arxiv.org/abs/2602.04770), without classes. For each of a frozen encoder's features
    phi::

        L_G = sum over phi of mean (phi(x) - constant(phi(x) + V))^2
        V = sum over temperatures of V_t / sqrt(mean V_t^2)

    where V_t, the displacement of every fake, is made of as many fakes and reals as a batch has,
    with features divided so that their mean distance is sqrt(D), D their number. The released
    code's floor on the weights of pairs is left out.

    The loss does not fall as the generator improves; ``drift``, the mean of V_t^2, does.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        field: V_t; the paper's two-sided field by default.
        temperatures: t, as parts of the mean distance.
        features: A network that maps images to features, or to several in a list, each of which has
            a loss of its own: it is frozen, and the checkpoint keeps its name alone. None for the
            images themselves.
        **kwargs: The arguments of
            :class:`~lightning_igm.modules.base.ImplicitGenerativeModule`.

    Raises:
        ValueError: An argument is out of range, or the encoder couples images.

    Example:
        >>> from lightning_igm.networks import DCGANGenerator
        >>> model = DriftingModel(DCGANGenerator(latent_dim=16, width=8))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("drift",)

    def __init__(
        self,
        generator: nn.Module,
        field: Field | None = None,
        temperatures: Sequence[float] = (0.02, 0.05, 0.2),
        features: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.field = field or TwoSidedField()
        if len(temperatures) == 0:
            raise ValueError("temperatures: [] is not allowed; it must have one or more")
        self.temperatures = tuple(above_zero("temperatures", each) for each in temperatures)
        self.encoder = FrozenEncoder(features)

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G of images ``(N, C, H, W)``."""
        with torch.no_grad():
            reals = self.encoder(real)
        losses, drifts = zip(
            *(
                drifting_loss_and_drifts(x, y, temperatures=self.temperatures, field=self.field)
                for x, y in zip(self.encoder(fake), reals, strict=True)
            ),
            strict=True,
        )
        self.log_training({"drift": torch.stack(drifts).mean()})
        return torch.stack(losses).sum()

    def on_fit_start(self) -> None:
        """Move the encoder to the device."""
        super().on_fit_start()
        self.encoder.to(self.device, self.weights_dtype)

    def training_state(self) -> dict[str, Any]:
        """The base's state and the encoder's name."""
        return super().training_state() | {"encoder": self.encoder.identity}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up :meth:`training_state`."""
        super().load_training_state(state)
        check_same_encoder(state["encoder"], self.encoder.identity)
