"""GRAM-net: match the generator where a projector keeps the ratio of the two densities."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from lightning_igm.checks import above_zero, non_negative, one_of
from lightning_igm.losses._gram_matrices import MEDIAN_FACTORS
from lightning_igm.losses.jacobians import features_of
from lightning_igm.losses.ratio import (
    GramMatrices,
    Regulariser,
    biased_mmd2,
    estimate_ratio,
    gram_matrices,
    mmd_root,
    projector_loss,
)
from lightning_igm.modules.adversarial import AdversarialModule
from lightning_igm.modules.ratio_diagnostics import RatioDiagnostics
from lightning_igm.networks.spectral import advance_spectral_norms

__all__ = ["GRAMNet"]

Bandwidths = float | Sequence[float] | Literal["median", "median5"]


class GRAMNet(AdversarialModule):
    """Generative ratio matching network.

    The algorithm of "Generative Ratio Matching Networks" (Srivastava, Xu, Gutmann and Sutton,
    ICLR 2020, https://openreview.net/forum?id=SJg7spEYDS). With q = f(G(z)) and p = f(x), the
    features of the projector f, here ``critic``, and one set of Gram matrices for all::

        r      = 1/L sum_l (N_q / N_p) (K_qq^(l) + jitter I)^-1 K_qp^(l) 1
        L_f    = -mean (r - 1)^2 - regulariser_weight mean r
        MMD^2  = sum_l mean K_qq^(l) - 2 mean K_qp^(l) + mean K_pp^(l)
        L_G    = sqrt(MMD^2 + 1e-6)
        f, G  <- Adam(grad_f L_f), Adam(grad_G L_G), both gradients taken before either step

    No zero-sum game: f maximises the Pearson divergence of the projected densities, which keeps
    their ratio, and G minimises another number. An iteration is one step of both, on one batch.

    Next to the losses the loggers get ``pearson_divergence``, ``ratio_mean``, ``ratio_min``,
    ``ratio_negative_share``, ``mmd2``, ``fake_feature_scale`` and ``real_feature_scale`` (root mean
    squares) and ``jitter_escalations`` (since the start of training). A large Pearson divergence is
    no sign of a bad generator: its estimate grows with the features' scale.

    Args:
        generator: G, maps latents ``(N, latent_dim)`` to images ``(N, C, H, W)`` or points.
        critic: f, the projector; maps images to features ``(N, K)``.
        sigmas: Standard deviations of the Gaussian kernels on features; ``median`` for the root of
            the median squared distance in each batch, ``median5`` for five multiples of it.
        bandwidth_is: Whether ``sigmas`` are standard deviations (``sd``) or ``variance``s.
        jitter: Added to the diagonal of K_qq; tenfold, three times at most, where it is too little.
        regulariser: Of L_f, what keeps the ratio positive
            (:func:`~lightning_igm.losses.ratio.projector_loss`).
        regulariser_weight: See there.
        mmd_root: Whether L_G is the root, or MMD^2 itself.
        update: ``simultaneous`` as above; ``sequential`` for f's step first, and G's gradient after
            it, on the same batch and fakes.
        log_condition_number: Log ``condition_number``, of K_qq + jitter I, the largest over
            bandwidths, and of several bandwidths each (``condition_number/0`` and so on), where
            loggers are due.
        log_d_star: Log ``d_star``, D* of Eq. 5, how far r is from the ratio without projector
            (:func:`~lightning_igm.losses.ratio.ratio_error`), where loggers are due.
        **kwargs: The arguments of :class:`~lightning_igm.modules.adversarial.AdversarialModule`,
            but for the number of critic steps.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lightning_igm.networks import DCGANCritic, DCGANGenerator
        >>> projector = DCGANCritic(width=8, out_dim=10)
        >>> model = GRAMNet(DCGANGenerator(latent_dim=16, width=8), projector, sigmas=[1.0, 10.0])
        >>> model.sample(4).shape
        torch.Size([4, 3, 32, 32])
    """

    logged = ("mmd2", "jitter_escalations")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        sigmas: Bandwidths = (1.0,),
        bandwidth_is: Literal["sd", "variance"] = "sd",
        jitter: float = 1e-3,
        regulariser: Regulariser = "mean",
        regulariser_weight: float = 1.0,
        mmd_root: bool = True,
        update: Literal["simultaneous", "sequential"] = "simultaneous",
        log_condition_number: bool = True,
        log_d_star: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, critic, critic_steps=1, **kwargs)
        self.sigmas = _standard_deviations(sigmas, bandwidth_is)
        self.jitter = above_zero("jitter", jitter)
        self.regulariser = one_of("regulariser", regulariser, get_args(Regulariser))
        self.regulariser_weight = non_negative("regulariser_weight", regulariser_weight)
        self.mmd_root = mmd_root
        self.update_order = one_of("update", update, ("simultaneous", "sequential"))
        self.log_condition_number = log_condition_number
        self.log_d_star = log_d_star
        self.diagnostics = RatioDiagnostics()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of both players."""
        real = self.images_of(batch)
        if self.update_order == "simultaneous":
            self._step_together(real)
        else:
            self._step_in_turn(real)

    def _step_together(self, real: Tensor) -> None:
        advance_spectral_norms(self.critic)
        fake = self.generate(real.shape[0])
        grams = self.gram_matrices(real, fake)
        critic_loss = self._projector_loss(real, fake, grams)
        generator_loss = self._matching_loss(grams)
        of_critic = self.gradients_of("critic", critic_loss, retain_graph=True)
        of_generator = self.gradients_of("generator", generator_loss)
        self.apply_gradients("critic", critic_loss, of_critic)
        self.apply_gradients("generator", generator_loss, of_generator)

    def _step_in_turn(self, real: Tensor) -> None:
        fake = self.generate(real.shape[0])
        advance_spectral_norms(self.critic)
        self.update("critic", self.critic_loss(real, fake.detach()))
        advance_spectral_norms(self.critic)
        self.update("generator", self.generator_loss(real, fake))

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_f."""
        return self._projector_loss(real, fake, self.gram_matrices(real, fake))

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """L_G."""
        return self._matching_loss(self.gram_matrices(real, fake))

    def gram_matrices(self, real: Tensor, fake: Tensor) -> GramMatrices:
        """Gram matrices of the features, over all ranks' images; a pass of f for each kind."""
        q, p = features_of(self.critic, fake), features_of(self.critic, real)
        return gram_matrices(q, p, self.sigmas)

    def _projector_loss(self, real: Tensor, fake: Tensor, grams: GramMatrices) -> Tensor:
        ratio, escalations = estimate_ratio(grams, self.jitter)
        before = self.latest.get("jitter_escalations", 0)
        self.latest["jitter_escalations"] = before + escalations
        if self.clock.is_logged_step(ahead=1):
            self.latest.update(self.diagnostics.values(self, real, fake, grams, ratio))
        return projector_loss(ratio, self.regulariser, self.regulariser_weight)

    def _matching_loss(self, grams: GramMatrices) -> Tensor:
        mmd2 = biased_mmd2(grams)
        self.latest["mmd2"] = mmd2.detach()
        return mmd_root(mmd2) if self.mmd_root else mmd2

    def log_now(self, values: Mapping[str, Tensor | float]) -> None:
        """Give values to all loggers, and warn once if the ratio has died."""
        super().log_now(values)
        self.diagnostics.warn_if_dead(self, values)


def _standard_deviations(
    sigmas: Bandwidths, bandwidth_is: str
) -> list[float] | Literal["median", "median5"]:
    """Checked bandwidths, as standard deviations."""
    one_of("bandwidth_is", bandwidth_is, ("sd", "variance"))
    if isinstance(sigmas, str):
        if bandwidth_is == "variance":
            raise ValueError(
                f"bandwidth_is: 'variance' is not allowed with sigmas {sigmas!r}; it must be 'sd'"
            )
        word: Literal["median", "median5"] = one_of("sigmas", sigmas, tuple(MEDIAN_FACTORS))
        return word
    if isinstance(sigmas, int | float):
        sigmas = [sigmas]
    if len(sigmas) == 0:
        raise ValueError("sigmas: [] is not allowed; it must have one bandwidth or more")
    power = 0.5 if bandwidth_is == "variance" else 1.0
    return [above_zero("sigmas", sigma) ** power for sigma in sigmas]
