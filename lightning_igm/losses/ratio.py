"""Ratio of two densities at samples of one, from kernels, and what GRAM-nets make of it.

From "Generative Ratio Matching Networks" (Srivastava, Xu, Gutmann and Sutton, ICLR 2020,
https://openreview.net/forum?id=SJg7spEYDS). The denominator q is the law of the generated samples,
the numerator p that of the data; both are seen through their features ``(..., N, K)``, where the
dots are nothing, or problems side by side, such as the members of an ensemble. Images as they are
would look like such problems: flatten them.

Gradients are closed forms: what comes back to a Gram matrix is a product of two vectors, so that
no matrix of gradients is ever made. They can be taken once; a second derivative is an error.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_igm.checks import above_zero, non_negative, one_of
from lightning_igm.losses._gram_matrices import (
    Bandwidths,
    GramMatrices,
    gram_matrices,
    median_bandwidths,
)
from lightning_igm.losses._support import as_numbers

__all__ = [
    "GramMatrices",
    "Regulariser",
    "biased_mmd2",
    "condition_numbers",
    "density_ratio",
    "estimate_ratio",
    "gram_matrices",
    "median_bandwidths",
    "mmd_root",
    "pearson_divergence",
    "projector_loss",
    "ratio_error",
    "ratio_of",
]

Regulariser = Literal["mean", "sum", "none", "clip"]
"""Regularisers that keep the ratio positive in :func:`projector_loss`."""

# Of the jitter, tenfold each time.
_ESCALATIONS = 3
_LARGEST_RATIO = 1e9


def density_ratio(
    denominator: Tensor, numerator: Tensor, sigmas: Bandwidths, jitter: float = 1e-3
) -> Tensor:
    """Ratio p / q of two densities at the samples of q, by kernel mean matching.

    With L bandwidths, K_qq and K_qp the Gram matrices of samples of q and p::

        r = 1/L sum_l (N_q / N_p) (K_qq^(l) + jitter I)^-1 K_qp^(l) 1

    It is not constrained: values can be negative. The fixed-design estimator of section 2 of
    "Generative Ratio Matching Networks" (see the module). Where the matrix is not positive
    definite, the jitter grows tenfold, three times at most.

    Args:
        denominator: Features ``(..., N_q, K)`` of samples of q; ``(N_q,)`` counts as K = 1.
        numerator: Features ``(..., N_p, K)`` of samples of p.
        sigmas: Standard deviations of the Gaussian kernels: a number, L numbers, a tensor, or a
            word as in :func:`gram_matrices`.
        jitter: Added to the diagonal.

    Returns:
        ``(..., N_q)``, in float32 or better, from a solve in float64. Under several ranks, of all
        ranks' samples.

    Raises:
        ValueError: The features do not fit, there are fewer than two of a kind, a sigma or the
            jitter is not positive, or the matrix is not positive definite with the largest jitter,
            either. (On a GPU, where this would have to be waited for, the ratio is NaN then.)

    Example:
        >>> import torch
        >>> q, p = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 1.5, 2.5, 3.0])
        >>> density_ratio(q, p, sigmas=[1.0])
        tensor([0.5581, 0.2380, 1.8005])
    """
    return ratio_of(gram_matrices(denominator, numerator, sigmas), jitter)


def ratio_of(grams: GramMatrices, jitter: float = 1e-3) -> Tensor:
    """The :func:`density_ratio` of Gram matrices that are there already.

    Example:
        >>> import torch
        >>> grams = gram_matrices(torch.tensor([0.0, 99.0]), torch.tensor([0.0, 0.0]), [1.0])
        >>> ratio_of(grams, jitter=1e-6)
        tensor([2.0000, 0.0000])
    """
    return estimate_ratio(grams, jitter)[0]


def estimate_ratio(grams: GramMatrices, jitter: float = 1e-3) -> tuple[Tensor, Tensor]:
    """The :func:`ratio_of` Gram matrices, and how often the jitter was made tenfold for it.

    Returns:
        ``(..., N_q)`` and, summed over bandwidths, ``(...)``.
    """
    above_zero("jitter", jitter)
    factor, escalations = _factor(grams.qq, jitter)
    ratio: Tensor = _Ratio.apply(grams.features, grams, factor)
    return ratio, escalations.sum(-1)


def pearson_divergence(ratio: Tensor) -> Tensor:
    """Pearson divergence ``mean (r - 1)^2`` of p from q, from the ratio at samples of q.

    Args:
        ratio: ``(..., N_q)``.

    Returns:
        ``(...)``.

    Example:
        >>> import torch
        >>> pearson_divergence(torch.tensor([0.0, 3.0]))
        tensor(2.5000)
    """
    return (as_numbers("ratio", ratio) - 1).square().mean(-1)


def projector_loss(ratio: Tensor, regulariser: Regulariser = "mean", weight: float = 1.0) -> Tensor:
    """Loss of the projector: minus the Pearson divergence, and minus the ratio itself.

    ::

        mean    -mean (r - 1)^2 - weight mean r
        sum     -mean (r - 1)^2 - weight sum r
        none    -mean (r - 1)^2
        clip    -mean (clamp(r, 0, 1e9) - 1)^2

    Args:
        ratio: r, ``(..., N_q)``.
        regulariser: Which of the above; the second term of the first two rewards a large ratio.
        weight: Of the second term.

    Returns:
        ``(...)``.

    Raises:
        ValueError: The regulariser is unknown, or the weight negative.

    Example:
        >>> import torch
        >>> projector_loss(torch.tensor([0.0, 3.0]))
        tensor(-4.)
    """
    one_of("regulariser", regulariser, get_args(Regulariser))
    non_negative("weight", weight)
    ratio = as_numbers("ratio", ratio)
    if regulariser == "clip":
        ratio = ratio.clamp(0, _LARGEST_RATIO)
    gain = pearson_divergence(ratio)
    if regulariser in ("mean", "sum"):
        reward = ratio.mean(-1) if regulariser == "mean" else ratio.sum(-1)
        gain = torch.add(gain, reward, alpha=weight)
    return -gain


def biased_mmd2(grams: GramMatrices) -> Tensor:
    """Squared MMD, summed over bandwidths, with the diagonals.

    ::

        sum_l mean K_qq^(l) - 2 mean K_qp^(l) + mean K_pp^(l)

    The ``biased`` :func:`~lightning_igm.losses.mmd.mmd2` with a sum of Gaussian kernels.

    Returns:
        ``(...)``.

    Example:
        >>> import torch
        >>> biased_mmd2(gram_matrices(torch.zeros(2), torch.full((2,), 99.0), [1.0]))
        tensor(2.)
    """
    value: Tensor = _MMD2.apply(grams.features, grams)
    return value


def mmd_root(mmd2: Tensor, delta: float = 1e-6) -> Tensor:
    """Loss of the generator, ``sqrt(max(MMD^2, 0) + delta)``.

    Delta keeps the gradient finite where the samples agree.

    Example:
        >>> import torch
        >>> mmd_root(torch.tensor(4.0))
        tensor(2.0000)
    """
    return (as_numbers("mmd2", mmd2).clamp_min(0) + delta).sqrt()


@torch.no_grad()
def condition_numbers(grams: GramMatrices, jitter: float = 1e-3) -> Tensor:
    """Condition number of ``K_qq + jitter I`` for each bandwidth.

    Returns:
        ``(..., L)``, in float64; NaN where the matrix is not finite.

    Example:
        >>> import torch
        >>> grams = gram_matrices(torch.tensor([0.0, 99.0]), torch.zeros(2), [1.0])
        >>> condition_numbers(grams).item()
        1.0
    """
    matrices = _with_jitter(grams.qq, jitter)
    finite = matrices.isfinite().all(-1).all(-1)
    # The solver refuses what is not finite.
    values = torch.linalg.eigvalsh(matrices.nan_to_num())
    numbers: Tensor = values[..., -1] / values[..., 0]
    return numbers.masked_fill(~finite, torch.nan)


@torch.no_grad()
def ratio_error(
    denominator: Tensor,
    numerator: Tensor,
    ratio: Tensor,
    sigmas: Bandwidths,
    jitter: float = 1e-3,
    *,
    clip: bool = False,
) -> Tensor:
    """Squared error of the features' ratio against the samples' ratio, D* of Eq. 5.

    ::

        D* = mean_i (r_x(x_i) - r_i)^2

    with r_x the :func:`density_ratio` of the samples x themselves.

    Args:
        denominator: Samples of q, ``(N_q, ...)``, flattened here.
        numerator: Samples of p, ``(N_p, ...)``.
        ratio: r, ``(N_q,)``, of their features; under several ranks of all ranks' samples.
        sigmas: Those of the features' ratio; a word takes the samples' own median distance.
        jitter: That of the features' ratio.
        clip: Whether r_x is set to 0 where it is negative.

    Returns:
        ``()``, without gradient.

    Raises:
        ValueError: As :func:`density_ratio`, or the ratio has another shape.

    Example:
        >>> import torch
        >>> q, p = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [0.0]])
        >>> ratio_error(q, p, torch.tensor([1.0, 1.0]), [1.0], jitter=1e-6)
        tensor(1.0000)
    """
    given = as_numbers("denominator", denominator), as_numbers("numerator", numerator)
    q, p = (points.flatten(1) if points.dim() > 2 else points for points in given)
    expected = density_ratio(q, p, sigmas, jitter)
    if ratio.shape != expected.shape:
        raise ValueError(
            f"ratio: shape {tuple(ratio.shape)} is not allowed; it must be "
            f"{tuple(expected.shape)}, a value for each sample of the denominator"
        )
    if clip:
        expected = expected.clamp_min(0)
    return (expected - ratio).square().mean()


# --- closed forms -----------------------------------------------------------------------------


class _Ratio(torch.autograd.Function):
    """r of :func:`density_ratio`, from Gram matrices and the Cholesky factor of K_qq + jitter I.

    With v_l = (K_qq + jitter I)^-1 g / L for a gradient g in r, its differential is that of
    ``sum_l N_q / N_p v_l K_qp 1 - v_l K_qq r_l = -sum_l v_l K_q t_l``, with K_q the rows of q and
    ``t_l = (r_l, -N_q / N_p 1)``.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, grams: GramMatrices, factor: Tensor) -> Tensor:
        solutions = _solve(factor, grams.qp.sum(-1, keepdim=True) * (grams.n_q / grams.n_p))
        ctx.grams = grams
        ctx.save_for_backward(factor, solutions)
        return solutions.squeeze(-1).mean(-2).to(features.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        grams: GramMatrices = ctx.grams
        factor, r = ctx.saved_tensors
        shared = (gradient.to(r.dtype) / r.shape[-3]).unsqueeze(-2).unsqueeze(-1)
        v = _solve(factor, shared.expand_as(r))
        t = pad(r, (0, 0, 0, grams.n_p), value=-grams.n_q / grams.n_p)
        rows = grams.matrix[..., : grams.n_q, :]
        sums = t * (rows.mT @ (v * grams.points[..., : grams.n_q, :]))
        sums[..., : grams.n_q, :] += v * (rows @ (t * grams.points))
        return -_pull(sums, grams), None, None


class _MMD2(torch.autograd.Function):
    """:func:`biased_mmd2`, ``sum_l w K w`` with the weights ``w = (1 / N_q, -1 / N_p)``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, grams: GramMatrices) -> Tensor:
        weights = grams.rates.new_full((features.shape[-2], 1), -1 / grams.n_p)
        weights[: grams.n_q] = 1 / grams.n_q
        sums = weights * (grams.matrix @ (weights * grams.points))
        ctx.grams = grams
        ctx.save_for_backward(sums)
        return sums[..., -1].sum((-2, -1)).to(features.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        (sums,) = ctx.saved_tensors
        return (2 * gradient)[..., None, None] * _pull(sums, ctx.grams), None


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():  # What is computed here would count as a constant.
        raise RuntimeError(
            "density ratios and biased_mmd2 have no second derivatives; take their gradients "
            "without create_graph (losses.mmd.mmd2 can be differentiated twice)"
        )


def _pull(sums: Tensor, grams: GramMatrices) -> Tensor:
    """Gradient ``(..., N, K)`` in the features a of ``sum_lij w_ij K_ij / 2``, w symmetric.

    As dK_ij / da_i = rate K_ij (a_i - a_j), it is ``sum_lj rate_l w_ij K_ij (a_i - a_j)``.

    Args:
        sums: ``sum_j w_ij K_ij a_j``, a with ones, ``(..., L, N, K + 1)``.
        grams: Where the features and rates are.
    """
    total = (sums * grams.rates).sum(-3)
    pull = grams.points.squeeze(-3)[..., :-1] * total[..., -1:] - total[..., :-1]
    return pull.to(grams.features.dtype)


def _factor(gram: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """Cholesky factors of matrices ``(..., N, N)`` with jitter, and its escalations ``(...)``.

    Raises:
        ValueError: On a CPU, if a matrix is finite and not positive definite.
    """
    on_cpu = gram.device.type == "cpu"
    if on_cpu:
        factor, failed = torch.linalg.cholesky_ex(_with_jitter(gram, jitter))
        if not failed.any():
            return factor, failed
    # Elsewhere all at once: to see whether the first will do would be to wait for the device.
    jitters = [jitter * 10**power for power in range(_ESCALATIONS + 1)]
    matrices = torch.stack([_with_jitter(gram, value) for value in jitters])
    factors, failed = torch.linalg.cholesky_ex(matrices)
    escalations = (failed != 0).int().cumprod(0).sum(0)
    lost = escalations > _ESCALATIONS
    if on_cpu and (lost & gram.isfinite().all(-1).all(-1)).any():
        raise ValueError(
            f"jitter: {jitter} is not allowed here, where a Gram matrix is not positive definite "
            f"even with {jitters[-1]:g}; it must be larger"
        )
    escalations = escalations.clamp(max=_ESCALATIONS)
    factor = factors.take_along_dim(escalations[None, ..., None, None], 0).squeeze(0)
    return factor.masked_fill(lost[..., None, None], torch.nan), escalations


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    """Solution of A x = b from the Cholesky factor of A, which cholesky_solve would copy."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solution


def _with_jitter(gram: Tensor, jitter: float) -> Tensor:
    matrix = gram.clone(memory_format=torch.contiguous_format)
    matrix.diagonal(0, -2, -1).add_(jitter)
    return matrix
