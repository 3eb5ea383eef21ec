"""KID: the kernel distance of features."""

from typing import Any, ClassVar

from lightning_igm.metrics.kernel_distance import check_kid_subsets, kernel_distance
from lightning_igm.metrics.score import FeatureScore

__all__ = ["KernelDistance"]


class KernelDistance(FeatureScore):
    """Squared MMD with KID's kernel: its mean and standard deviation over subsets.

    "Demystifying MMD GANs" (Bińkowski et al., 2018, https://arxiv.org/abs/1801.01401); see
    :func:`~lightning_igm.metrics.kernel_distance`. Equal seeds give torch-fidelity's numbers.

    Args:
        subset_size: Images of each kind in a subset.
        subsets: Number of subsets.
        seed: Seed of the subsets.
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> metric = KernelDistance(subset_size=50, subsets=10)
        >>> features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> metric.update(features, real=True)
        >>> metric.update(features + 1, real=False)
        >>> kid, std = metric.compute().values()
        >>> bool(kid > 2 * std > 0)
        True
    """

    name, order = "kid", 2
    columns: ClassVar = {"kid": False}
    default_on = ("*",)
    digits = 5
    higher_is_better = False
    settings: ClassVar = {
        "subset_size": "kid_subset_size",
        "subsets": "kid_subsets",
        "seed": "seed",
    }
    too_few = "kid_subset_size must be at most the number of {kind} images ({count}), got {least}"

    def __init__(
        self, subset_size: int = 1000, subsets: int = 100, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_kid_subsets(subset_size, subsets)
        self.subset_size, self.subsets, self.seed = subset_size, subsets, seed

    def least(self, num_features: int = 0) -> int:
        """A subset's."""
        return self.subset_size

    def scores(self) -> dict[str, float]:
        """The distance and its spread over subsets."""
        kid, std = kernel_distance(
            self.rows("real_features"),
            self.rows("fake_features"),
            subset_size=self.subset_size,
            subsets=self.subsets,
            seed=self.seed,
            device=self.device,
        )
        return {"kid": kid, "kid_std": std}
