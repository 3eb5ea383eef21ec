"""Which of two sets of samples is closer to a third: the test that sets learning rates.

Section 5 and appendix of "Demystifying MMD GANs" (Bińkowski et al., 2018,
https://arxiv.org/abs/1801.01401), after "A Test of Relative Similarity for Model Selection in
Generative Models" (Bounliphone et al., 2016, https://arxiv.org/abs/1511.04581).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_igm.checks import non_negative

__all__ = ["KernelSums", "ThreeSampleTest", "kernel_sums", "three_sample_test"]

# The variance's estimate can be negative.
_LEAST_VARIANCE = 1e-12


class KernelSums(NamedTuple):
    """Sums that the test needs of a set ``b`` of m samples and m real ones ``a``, in float64.

    Attributes:
        within: ``(m,)``, t_i, the sum over j other than i of K(b_i, b_j).
        within_squared: ``()``, T2, the sum over i other than j of K(b_i, b_j)^2.
        columns: ``(m,)``, c_j, the sum over i of K(a_i, b_j).
        rows: ``(m,)``, r_i, the sum over j of K(a_i, b_j).
        across_squared: ``()``, C2, the sum over i and j of K(a_i, b_j)^2.
    """

    within: Tensor
    within_squared: Tensor
    columns: Tensor
    rows: Tensor
    across_squared: Tensor


class ThreeSampleTest(NamedTuple):
    """Outcome of the test of new samples ``b`` against old samples ``z``; all ``()``, float64.

    Attributes:
        difference: Squared MMD of ``b`` to the real samples, less that of ``z``, unbiased.
        variance: Estimate of its variance.
        stat: ``difference`` over the root of the variance, or of the floor if that is larger.
        p: Probability of so small a ``stat`` if both were equally close; small if ``b`` is closer.
    """

    difference: Tensor
    variance: Tensor
    stat: Tensor
    p: Tensor


@torch.no_grad()
def kernel_sums(real: Tensor, samples: Tensor) -> KernelSums:
    """Sum the kernel of KID, ``K(a, b) = (a b / D + 1)^3``, over pairs of features.

    The sums take m numbers where the features take m D: those of many past sets can be kept.

    Args:
        real: Features ``(m, D)`` of real samples, the same for all sets that are compared.
        samples: Features ``(m, D)`` of the set.

    Raises:
        ValueError: The shapes differ, or there are fewer than 3 samples.

    Example:
        >>> import torch
        >>> codes = torch.eye(4)
        >>> kernel_sums(codes, codes).rows.tolist()
        [4.953125, 4.953125, 4.953125, 4.953125]
    """
    if real.ndim != 2 or real.shape != samples.shape:
        raise ValueError(
            f"samples: shape {tuple(samples.shape)} is not allowed with real features "
            f"{tuple(real.shape)}; both must be (m, D)"
        )
    if len(real) < 3:
        raise ValueError(f"samples: {len(real)} are not allowed; there must be 3 or more")
    real, samples = real.double(), samples.double()
    with torch.autocast(real.device.type, enabled=False):
        within = _kernel(samples, samples).fill_diagonal_(0)
        across = _kernel(real, samples)
        return KernelSums(
            within.sum(1),
            within.square().sum(),
            across.sum(0),
            across.sum(1),
            across.square().sum(),
        )


def three_sample_test(
    new: KernelSums, old: KernelSums, variance_floor: float = 1e-5
) -> ThreeSampleTest:
    """Test whether new samples are closer to the real ones than old samples are.

    With ``mu`` the means of the sums, ``difference = mu_BB - 2 mu_AB - mu_ZZ + 2 mu_AZ``, of
    variance ``4 (m - 2) / (m (m - 1)) zeta_1 + 2 / (m (m - 1)) zeta_2``, where ``zeta_1`` and
    ``zeta_2`` are the variances of the U-statistic's kernel given one sample of each set, and given
    two.

    Args:
        new: Sums of the new samples ``b``.
        old: Sums of the old samples ``z``, with the same real samples; independent of ``b``.
        variance_floor: Smallest variance to divide by. Where it is active, ``p`` is at most 0.1 if
            the KID fell by 1.28 of its root, or more.

    Raises:
        ValueError: The sums are of different numbers of samples, or the floor is negative.

    Example:
        >>> import torch
        >>> real, far, near = torch.zeros(3, 8, 2), torch.ones(8, 2), torch.full((8, 2), 0.1)
        >>> test = three_sample_test(kernel_sums(real[0], near), kernel_sums(real[0], far))
        >>> bool(test.p < 0.1)
        True
    """
    m = len(new.within)
    if len(old.within) != m:
        raise ValueError(f"old: sums of {len(old.within)} samples; those of new are of {m}")
    floor = max(non_negative("variance_floor", variance_floor), _LEAST_VARIANCE)
    pairs = m * (m - 1)
    triples = m * pairs
    difference = new.within.new_zeros(())
    zeta_1, zeta_2 = torch.zeros_like(difference), torch.zeros_like(difference)
    for sign, sums in ((1, new), (-1, old)):
        within, across = sums.within.sum() / pairs, sums.columns.sum() / m**2
        mixed = sums.within @ sums.columns / triples - within * across
        difference = difference + sign * (within - 2 * across)
        zeta_1 = zeta_1 + (
            (sums.within @ sums.within - sums.within_squared) / (pairs * (m - 2))
            + (sums.rows @ sums.rows + sums.columns @ sums.columns - 2 * sums.across_squared)
            / triples
            - within**2
            - 2 * across**2
            - 2 * mixed
        )
        zeta_2 = zeta_2 + (
            sums.within_squared / pairs
            - within**2
            + 2 * (sums.across_squared / m**2 - across**2)
            - 4 * mixed
        )
    shared = new.rows @ old.rows / m**3 - new.columns.sum() * old.columns.sum() / m**4
    zeta_1, zeta_2 = zeta_1 - 2 * shared, zeta_2 - 4 * shared
    variance = (4 * (m - 2) * zeta_1 + 2 * zeta_2) / pairs
    stat = difference / variance.clamp_min(floor).sqrt()
    return ThreeSampleTest(difference, variance, stat, torch.special.ndtr(stat))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
