"""Generative feature matching: moments of a frozen encoder's features, fakes' and data's."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Adam

from lightning_igm.checks import above_zero, one_of
from lightning_igm.distributed import world_size
from lightning_igm.losses.feature_matching import (
    FeatureMoments,
    batch_moments,
    check_covariance,
    frechet_loss,
    mean_and_variance_loss,
)
from lightning_igm.modules.base import ImplicitGenerativeModule
from lightning_igm.modules.encoders import FrozenEncoder, check_same_encoder
from lightning_igm.modules.training_set import training_images

__all__ = ["FeatureMatching"]

Statistics = Literal["variance", "covariance"]
Moments = list[tuple[Tensor, Tensor]]


class FeatureMatching(ImplicitGenerativeModule):
    """Generative feature matching network, without a critic.

    "Learning Implicit Generative Models by Matching Perceptual Features" (dos Santos, Mroueh,
    Padhi and Dognin, ICCV 2019, https://arxiv.org/abs/1904.02762). With the mean m and the
    variances v of the features of all of a frozen encoder's layers, of a batch of fakes and of the
    whole training set::

        L_G = sum over layers of mean (m_fake - m_data)^2 + mean (v_fake - v_data)^2

    With ``moving_average``, the published form, L_G is ``<w, m_data - m_fake>`` and the same for v,
    where w follows ``m_data - m_fake`` by Adam: an average over batches that small ones need. This
    loss is signed and says nothing about progress; ``discrepancy`` is the one above.

    With ``statistics: covariance`` L_G is the squared Fréchet distance of each layer's features,
    as in "FD-loss" (Yang et al., 2026, https://arxiv.org/abs/2604.28190); there must be fewer of
    them than images in a batch.

    Args:
        generator: Maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)``.
        features: Maps images to features, or to those of several layers in a list: it is frozen,
            and the checkpoint keeps its name alone. None for the images themselves.
        statistics: ``variance`` or ``covariance``.
        moving_average: Adam's rate for w, published as 1e-5; None for no w.
        **kwargs: The arguments of
            :class:`~lightning_igm.modules.base.ImplicitGenerativeModule`.

    Raises:
        ValueError: An argument is out of range, or the encoder couples images.

    Example:
        >>> from lightning_igm.networks import DCGANGenerator, ImageStatistics
        >>> generator = DCGANGenerator(latent_dim=16, width=8)
        >>> model = FeatureMatching(generator, ImageStatistics(patches=[2, 4]))
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("discrepancy",)

    def __init__(
        self,
        generator: nn.Module,
        features: nn.Module | None = None,
        statistics: Statistics = "variance",
        moving_average: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.encoder = FrozenEncoder(features)
        self.statistics = one_of("statistics", statistics, get_args(Statistics))
        if moving_average is not None:
            above_zero("moving_average", moving_average)
            if statistics == "covariance":
                raise ValueError(
                    f"moving_average: {moving_average} is not allowed with statistics "
                    "'covariance'; it must be null"
                )
        self.moving_average = moving_average
        self.layer_moments: Moments | None = None
        """Mean ``(D,)`` and variances or covariance of each layer, of the whole training set."""
        self.averages: list[Tensor] = []
        """The vectors w of each layer's means and variances."""
        self._adam: Adam | None = None
        self._adam_state: dict[str, Any] | None = None

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One generator step; before the first, a pass over the training set."""
        if self.layer_moments is None:
            if self.statistics == "covariance":
                real = self.images_of(batch)
                for feature in self.encoder(real[:1]):
                    check_covariance(world_size() * len(real), feature.shape[1])
            self.layer_moments = self.training_set_moments()
        super().training_step(batch, batch_idx)

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G of images ``(N, C, H, W)``."""
        if self.layer_moments is None:
            raise RuntimeError("layer_moments are not computed; see training_set_moments")
        pairs = list(zip(self.encoder(fake), self.layer_moments, strict=True))
        loss_of = frechet_loss if self.statistics == "covariance" else mean_and_variance_loss
        discrepancy = torch.stack([loss_of(x, *moments) for x, moments in pairs]).sum()
        self.log_training({"discrepancy": discrepancy})
        if self.moving_average is None:
            return discrepancy
        gaps = [
            gap
            for x, (mean, variance) in pairs
            for shift, spread in [batch_moments(x, mean)]
            for gap in (-shift, variance.to(spread.dtype) - spread)
        ]
        self._follow([gap.detach() for gap in gaps])
        products = [(w * gap).sum() for w, gap in zip(self.averages, gaps, strict=True)]
        return torch.stack(products).sum()

    @torch.no_grad()
    def training_set_moments(self) -> Moments:
        """Moments of every layer's features of all training images."""
        layers: list[FeatureMoments] = []
        for images in training_images(self):
            features = self.encoder(images)
            layers = layers or [FeatureMoments(self.statistics == "covariance") for _ in features]
            for layer, feature in zip(layers, features, strict=True):
                layer.update(feature)
        return [tuple(m.to(self.weights_dtype) for m in layer.compute()) for layer in layers]  # type: ignore[misc]

    def _follow(self, gaps: list[Tensor]) -> None:
        """One step of w towards the gaps."""
        if self._adam is None:
            self.averages = self.averages or [torch.zeros_like(gap) for gap in gaps]
            self.averages = [w.to(gaps[0].device) for w in self.averages]
            self._adam = Adam(self.averages, lr=self.moving_average or 0.0, betas=(0.5, 0.999))
            if self._adam_state is not None:
                self._adam.load_state_dict(self._adam_state)
        for w, gap in zip(self.averages, gaps, strict=True):
            w.grad = 2 * (w - gap) / len(gap)
        self._adam.step()

    # --- checkpoints ----------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """The base's state, the encoder's name, the data's moments and the averages."""
        adam = self._adam_state if self._adam is None else self._adam.state_dict()
        own = {"encoder": self.encoder.identity, "statistics": self.statistics}
        moments = {"layer_moments": self.layer_moments, "averages": self.averages, "adam": adam}
        return super().training_state() | own | moments

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take up :meth:`training_state`."""
        super().load_training_state(state)
        check_same_encoder(state["encoder"], self.encoder.identity)
        # Of other statistics they would be other moments; they are made anew then.
        same = state["statistics"] == self.statistics
        self.layer_moments = state["layer_moments"] if same else None
        self.averages, self._adam_state, self._adam = state["averages"], state["adam"], None

    def on_fit_start(self) -> None:
        """Move the encoder, and what a checkpoint brought, to the device."""
        super().on_fit_start()
        self.encoder.to(self.device, self.weights_dtype)
        if self.layer_moments is not None:
            self.layer_moments = [
                (a.to(self.device), b.to(self.device)) for a, b in self.layer_moments
            ]
