"""The kernel distance between two sets of features: KID."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_kid_subsets", "kernel_distance"]

_ENTRIES = 2**23  # Of a kernel between all rows, 64 MiB.


@torch.no_grad()
def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    subset_size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
    device: torch.device | None = None,
) -> tuple[float, float]:
    """Mean and standard deviation over subsets of the squared MMD with KID's kernel.

    "Demystifying MMD GANs" (Bińkowski et al., 2018, https://arxiv.org/abs/1801.01401): the unbiased
    estimate, which may be slightly negative, with ``K(a, b) = (a b / D + 1)^3``. The subsets are
    drawn as torch-fidelity draws them, so that equal seeds give its numbers, and computed in
    float64: KID is a small difference of large means.

    Args:
        real: ``(M, D)``.
        fake: ``(N, D)``.
        subset_size: Rows of each kind in a subset, drawn without replacement.
        subsets: Number of subsets.
        seed: Seed of the subsets.
        device: Where to compute; where ``real`` is by default.

    Raises:
        ValueError: The shapes do not match, or there are fewer rows than ``subset_size``.

    Example:
        >>> import torch
        >>> real = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> mean, std = kernel_distance(real, real + 1, subset_size=50, subsets=10)
        >>> mean > 2 * std > 0
        True
    """
    check_kid_subsets(subset_size, subsets)
    for kind, features in (("real", real), ("generated", fake)):
        if len(features) < subset_size:
            raise ValueError(
                f"kid_subset_size must be at most the number of {kind} images ({len(features)}), "
                f"got {subset_size}"
            )
    device = device or real.device
    pairs = ((fake, fake), (real, real), (real, fake))
    # With few rows, subsets overlap so much that all pairs are fewer than those of the subsets.
    most = max(len(real), len(fake)) ** 2
    whole = most <= min(subsets * subset_size**2, _ENTRIES)
    kernels = [_kernel(a, b, device) if whole else None for a, b in pairs]
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        # Generated ones first, torch-fidelity's first input.
        y, x = (torch.from_numpy(draw.choice(len(t), subset_size, False)) for t in (fake, real))
        yy, xx, xy = (
            _kernel(a[i], b[j], device) if kernel is None else kernel[i[:, None], j]
            for kernel, (a, b), (i, j) in zip(kernels, pairs, ((y, y), (x, x), (x, y)), strict=True)
        )
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (subset_size - 1)
        values.append((within - 2 * xy.sum() / subset_size) / subset_size)
    scores = torch.stack(values).cpu()
    return float(scores.mean()), float(scores.std(correction=0))


def check_kid_subsets(kid_subset_size: int, kid_subsets: int) -> None:
    """Refuse sizes that KID is not defined for.

    Raises:
        ValueError: If a subset has fewer than 2 images or there is no subset.
    """
    if kid_subset_size < 2:
        raise ValueError(f"kid_subset_size must be at least 2, got {kid_subset_size}")
    if kid_subsets < 1:
        raise ValueError(f"kid_subsets must be at least 1, got {kid_subsets}")


def _kernel(a: Tensor, b: Tensor, device: torch.device) -> Tensor:
    a, b = a.to(device).double(), b.to(device).double()
    return (a @ b.mT / a.shape[1] + 1).pow(3)
