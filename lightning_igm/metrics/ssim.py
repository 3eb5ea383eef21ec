"""MS-SSIM of samples, and beside it that of the data."""

import math
from typing import Any, ClassVar

from torch import Tensor

from lightning_igm.checks import positive
from lightning_igm.metrics.diversity import mean_similarity
from lightning_igm.metrics.score import Score

__all__ = ["MultiScaleSSIM"]

_MOST_BYTES = 2**26


class MultiScaleSSIM(Score):
    """How alike samples are, and how alike the data: mean MS-SSIM of random pairs of images.

    "Conditional Image Synthesis with Auxiliary Classifier GANs" (Odena et al., 2017,
    https://arxiv.org/abs/1610.09585); see :func:`~lightning_igm.metrics.mean_similarity`. Only the
    ratio of both means anything, 1 at best: above 1 samples are less diverse than the data. Spreads
    are standard errors. At most 20,000 images of a kind are kept, and 64 MiB.

    Args:
        pairs: Number of pairs.
        seed: Seed of the pairs.
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Raises:
        ValueError: ``pairs`` is not positive.

    Example:
        >>> import torch
        >>> metric = MultiScaleSSIM(pairs=50)
        >>> noise = torch.randint(256, (20, 1, 16, 16), dtype=torch.uint8)
        >>> metric.update(noise, real=True)
        >>> metric.update(noise, real=False)
        >>> float(metric.compute()["ms_ssim_ratio"])
        1.0
    """

    name, order = "ms_ssim", 4
    columns: ClassVar = {"ms_ssim": None, "ms_ssim_real": None, "ms_ssim_ratio": None}
    headlines = ("ms_ssim_ratio",)
    needs = "images"
    settings: ClassVar = {"pairs": "pairs", "seed": "seed"}
    max_rows = 20_000

    def __init__(self, pairs: int = 10_000, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs, self.seed = positive("pairs", pairs), seed
        self.hold("real_images", "fake_images")

    def update(
        self, images: Tensor, real: bool, index: Tensor | None = None, total: int | None = None
    ) -> None:
        """Take in uint8 images ``(N, C, H, W)``; see ``Score.keep``."""
        if images.ndim != 4 or images.is_floating_point():
            raise ValueError(
                f"images: {images.dtype} {tuple(images.shape)} is not allowed; they must be uint8 "
                "(N, C, H, W)"
            )
        self.keep("real_images" if real else "fake_images", images, index, total)

    def most_rows(self, values: Tensor) -> int:
        """As many as fit into 64 MiB."""
        size = math.prod(values.shape[1:]) * values.element_size()
        return min(self.max_rows, max(2, _MOST_BYTES // size))

    def scores(self) -> dict[str, float]:
        """The mean of the samples, that of the data, and their ratio, each with its error."""
        (own, own_error), (data, data_error) = (
            mean_similarity(self.rows(name), pairs=self.pairs, seed=self.seed, device=self.device)
            for name in ("fake_images", "real_images")
        )
        ratio = own / data if data > 0 else math.nan
        error = math.hypot(own_error, ratio * data_error) / data if data > 0 else math.nan
        numbers = own, own_error, data, data_error, ratio, error
        return dict(zip(self.names(), numbers, strict=True))
