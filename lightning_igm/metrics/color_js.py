"""How far the colours of samples are from those of the data."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_igm.metrics.colors import color_divergence, main_colors
from lightning_igm.metrics.score import Score

__all__ = ["ColorDivergence"]


class ColorDivergence(Score):
    """Jensen-Shannon divergence between the main colours of samples and of the data, in nats.

    After "Unrolled Generative Adversarial Networks" (Metz et al., 2016,
    https://arxiv.org/abs/1611.02163); see :func:`~lightning_igm.metrics.color_divergence`.

    Args:
        kwargs: Those of :class:`~lightning_igm.metrics.score.Score`.

    Example:
        >>> import torch
        >>> metric = ColorDivergence()
        >>> draw = torch.Generator().manual_seed(0)
        >>> images = torch.randint(256, (50, 3, 8, 8), generator=draw, dtype=torch.uint8)
        >>> metric.update(images, real=True)
        >>> metric.update(images // 9, real=False)
        >>> round(float(metric.compute()["color_js"]), 2)
        0.69
    """

    name, order = "colors", 7
    columns: ClassVar = {"color_js": False}
    default_on = ("color_mnist",)
    needs = "images"
    higher_is_better = False
    plot_lower_bound, plot_upper_bound = 0.0, 0.7
    max_rows = 5_000

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hold("real_colors", "fake_colors")

    def update(
        self, images: Tensor, real: bool, index: Tensor | None = None, total: int | None = None
    ) -> None:
        """Take in uint8 images ``(N, 3, H, W)``; see ``Score.keep``."""
        self.keep("real_colors" if real else "fake_colors", main_colors(images), index, total)

    def scores(self) -> dict[str, float]:
        """The divergence and its standard error."""
        divergence, error = color_divergence(self.rows("real_colors"), self.rows("fake_colors"))
        return {"color_js": divergence, "color_js_std": error}
