"""Distances between two normal distributions, by how far apart and how wide they are.

Fig. 7 of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018,
https://arxiv.org/abs/1805.11565, appendix F.1)::

    python -m lightning_igm.studies.gaussians --out runs/gaussians

writes ``gaussians.png`` and ``gaussians.csv``: with P = N(0, 0.1^2) and Q = N(m, s^2), the MMD and
the gradient-constrained MMD with a narrow and a wide Gaussian kernel, and the scaled and the
gradient-constrained MMD with the bandwidth at which they are largest. All are exact, but for the
measure of the gradient constraint, P, which is a Gauss-Hermite rule of 60 points.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_igm.studies._closed_forms import GradientConstraint, Normal, mmd2, peak, witness
from lightning_igm.studies._figure import console, figure, out_folder, write_table

__all__ = ["distances", "gcmmd", "main", "mmd", "smmd"]

Distance = Callable[[float, Tensor, Tensor], Tensor]
"""Of a bandwidth, m and s."""

_SPREAD = 0.1
"""Standard deviation of P."""
_NARROW, _WIDE = 0.1, 10.0
_BANDWIDTHS = torch.logspace(-2, 2, 401, dtype=torch.float64)
"""Those among which the best is sought."""


def mmd(bandwidth: float, m: Tensor, s: Tensor) -> Tensor:
    """MMD between P and N(m, s^2), for ``m`` and ``s`` of shape ``(N,)``.

    With ``C(v, d) = h / sqrt(h^2 + v) exp(-d^2 / (2 (h^2 + v)))``, its square is
    ``C(0.02, 0) + C(2 s^2, 0) - 2 C(0.01 + s^2, m)``.
    """
    p, q = _pair(m, s)
    distance: Tensor = mmd2(p, q, m.new_full((), bandwidth)).clamp_min(0).sqrt()
    return distance


def smmd(bandwidth: float, m: Tensor, s: Tensor, lam: float = 1.0) -> Tensor:
    """Scaled MMD of eq. 7: the square is ``MMD^2 / (lambda + 1 + h^-2)``, whatever the measure."""
    return mmd(bandwidth, m, s) / math.sqrt(lam + 1 + bandwidth**-2)


def gcmmd(bandwidth: float, m: Tensor, s: Tensor, lam: float = 1.0) -> Tensor:
    """Gradient-constrained MMD of eq. 5, with the measure P."""
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(60))
    h = m.new_full((), bandwidth)
    points = _SPREAD * nodes[:, None]
    constraint = GradientConstraint(points, weights / weights.sum(), h, lam)
    p, q = _pair(m, s)
    functionals = witness(p, q, h, points).flatten(-2).mT
    return constraint.gcmmd2(mmd2(p, q, h), functionals).clamp_min(0).sqrt()


def distances(m: Tensor, s: Tensor) -> dict[str, Tensor]:
    """All distances of the figure and the best bandwidths, ``(N,)`` each."""
    best_scaled, scaled_bandwidth = _best(smmd, m, s)
    best_constrained, constrained_bandwidth = _best(gcmmd, m, s)
    return {
        f"MMD, h = {_NARROW:g}": mmd(_NARROW, m, s),
        f"MMD, h = {_WIDE:g}": mmd(_WIDE, m, s),
        "optimized SMMD": best_scaled,
        f"GCMMD, h = {_NARROW:g}": gcmmd(_NARROW, m, s),
        f"GCMMD, h = {_WIDE:g}": gcmmd(_WIDE, m, s),
        "optimized GCMMD": best_constrained,
        "h of SMMD": scaled_bandwidth,
        "h of GCMMD": constrained_bandwidth,
    }


def _best(distance: Distance, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    return peak(torch.stack([distance(float(h), m, s) for h in _BANDWIDTHS], -1), _BANDWIDTHS)


def _pair(m: Tensor, s: Tensor) -> tuple[Normal, Normal]:
    """P and the N(m, s^2)."""
    p = Normal(torch.zeros_like(m)[:, None], torch.full_like(m, _SPREAD**2))
    return p, Normal(m[:, None], s.square())


def _draw(path: Path, m: Tensor, s: Tensor, panels: dict[str, Tensor]) -> None:
    from matplotlib.colors import LogNorm

    norm = LogNorm(1e-2, 2)
    with figure(path, 2, 3, (3.6, 3.2)) as axes:
        for panel, (name, values) in zip(axes.flat, panels.items(), strict=True):
            # Distances of 0 are below the scale, as all that are small.
            grid = [x.numpy() for x in (m, s, values.clamp_min(1e-9))]
            mesh = panel.pcolormesh(*grid, norm=norm, shading="gouraud")
            panel.set(title=name, xlabel="m", ylabel="s", yscale="log")
        label = r"distance of $N(0, 0.1^2)$ and $N(m, s^2)$"
        axes[0, 0].figure.colorbar(mesh, ax=axes, label=label, extend="min")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute all, and write the table and the figure."""
    folder = out_folder("gaussians", str(__doc__), arguments)
    m, s = torch.meshgrid(
        torch.linspace(-10, 10, 81, dtype=torch.float64),
        torch.logspace(-1, 1, 41, dtype=torch.float64),
        indexing="xy",
    )
    found = distances(m.flatten(), s.flatten())
    columns = {"m": m.flatten(), "s": s.flatten(), **found}
    write_table(folder / "gaussians.csv", columns)
    panels = {n: v.view_as(m) for n, v in found.items() if not n.startswith("h of")}
    _draw(folder / "gaussians.png", m, s, panels)


if __name__ == "__main__":
    console(main, "gaussians")
