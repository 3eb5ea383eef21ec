"""FID and KID from features that are already there."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_igm.metrics.frechet import check_count, frechet_error, moments
from lightning_igm.metrics.kernel_distance import check_kid_subsets, kernel_distance

__all__ = ["ImageScores", "image_scores"]


class ImageScores(NamedTuple):
    """Scores of generated images against real ones; lower is better.

    Attributes:
        fid: Fréchet distance between Gaussians fitted to the features.
        kid: Mean over subsets of the unbiased squared MMD with the cubic polynomial kernel;
            it may be slightly negative.
        kid_std: Standard deviation over the subsets.
        fid_std: Standard error of ``fid`` over fresh generated images.
    """

    fid: float
    kid: float
    kid_std: float
    fid_std: float


@torch.no_grad()
def image_scores(
    real: Tensor,
    fake: Tensor,
    *,
    kid_subset_size: int = 500,
    kid_subsets: int = 100,
    seed: int = 0,
) -> ImageScores:
    """Compute FID and KID from features of real and generated images.

    FID: "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
    (Heusel et al., 2017, https://arxiv.org/abs/1706.08500). KID: "Demystifying MMD GANs"
    (Bińkowski et al., 2018, https://arxiv.org/abs/1801.01401). Both run in float64, without
    communication between processes, and equal torch-fidelity's on the same features with the same
    seed. Global random states are neither read nor moved.

    Args:
        real: Features of real images, ``(M, D)``.
        fake: Features of generated images, ``(N, D)``.
        kid_subset_size: Images of each kind in one of KID's subsets.
        kid_subsets: Number of KID's subsets.
        seed: Seed of KID's subsets.

    Raises:
        ValueError: If the shapes do not match, or if there are fewer images than features (a
            covariance would be singular) or than ``kid_subset_size``.

    Example:
        >>> import torch
        >>> features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> scores = image_scores(features, features + 1.0, kid_subset_size=50, kid_subsets=2)
        >>> round(scores.fid, 4)
        4.0
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            "real and fake features must be (M, D) and (N, D), "
            f"got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    check_kid_subsets(kid_subset_size, kid_subsets)
    for kind, features in (("real", real), ("generated", fake)):
        check_count(kind, len(features), real.shape[1])
    fid, fid_std = frechet_error(*moments(real), *moments(fake), fake)
    kid, kid_std = kernel_distance(
        real, fake, subset_size=kid_subset_size, subsets=kid_subsets, seed=seed
    )
    return ImageScores(float(fid), kid, kid_std, float(fid_std))
