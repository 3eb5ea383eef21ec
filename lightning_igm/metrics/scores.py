"""FID and KID from features that are already there."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_igm.metrics.rng import isolated_rng


class ImageScores(NamedTuple):
    """Scores of generated images against real ones; lower is better.

    Attributes:
        fid: Fréchet distance between Gaussians fitted to the features.
        kid: Mean over subsets of the unbiased squared MMD with the cubic polynomial kernel;
            it may be slightly negative.
        kid_std: Standard deviation over the subsets.
    """

    fid: float
    kid: float
    kid_std: float


class _Features(nn.Identity):
    """Hands features that are already computed to a torchmetrics class."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


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
    communication between processes. KID's subsets are drawn from ``seed``; global random states
    stay as they are. Equal arguments give equal scores.

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
    for name, features in (("real", real), ("generated", fake)):
        count, num_features = features.shape
        if count <= num_features:
            raise ValueError(
                f"FID with {num_features} features needs more than {num_features} {name} images, "
                f"got {count}"
            )
        if count < kid_subset_size:
            raise ValueError(
                f"kid_subset_size must be at most the number of {name} images ({count}), "
                f"got {kid_subset_size}"
            )
    num_features = real.shape[1]
    # sync_on_compute: every process passes all features, so a reduction would count them twice.
    # FID on the CPU: eigenvalues of a general matrix are not in every CUDA build of torch.
    fid = FrechetInceptionDistance(_Features(num_features), sync_on_compute=False)
    fid.update(real.double().cpu(), real=True)
    fid.update(fake.double().cpu(), real=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features in buffer.*")
        kid = KernelInceptionDistance(
            _Features(num_features),
            subsets=kid_subsets,
            subset_size=kid_subset_size,
            sync_on_compute=False,
        )
    kid.update(real.double(), real=True)
    kid.update(fake.double(), real=False)
    with isolated_rng(seed):
        kid_mean, kid_std = kid.compute()
    return ImageScores(float(fid.compute()), float(kid_mean), float(kid_std))


def check_kid_subsets(kid_subset_size: int, kid_subsets: int) -> None:
    """Refuse sizes that KID is not defined for.

    Raises:
        ValueError: If a subset has fewer than 2 images or there is no subset.
    """
    if kid_subset_size < 2:
        raise ValueError(f"kid_subset_size must be at least 2, got {kid_subset_size}")
    if kid_subsets < 1:
        raise ValueError(f"kid_subsets must be at least 1, got {kid_subsets}")
