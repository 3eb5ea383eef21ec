"""Gradients of two critics over the plane: where they would send samples.

Fig. 6 of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018,
https://arxiv.org/abs/1805.11565, appendix C)::

    python -m lightning_igm.studies.critic_fields --out runs/critic_fields

writes ``critic_fields.png`` and ``critic_fields.csv`` for data P = N((1, 0), I) and samples
Q = N((-1, 0), I). The critic of the gradient-constrained MMD has its largest gradient between them.
That of the Sobolev GAN, whose zero boundary condition is a part of its theory, has its largest
gradients at the boundary, and they point away from the data.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_igm.studies._closed_forms import GradientConstraint, Normal
from lightning_igm.studies._figure import console, figure, out_folder, write_table

__all__ = ["EDGE", "NODES", "gcmmd_critic", "main", "node_gradients", "sobolev_critic"]

Array = npt.NDArray[np.float64]

EDGE, NODES = 4.0, 119
"""The plane is [-4, 4]^2, with so many nodes inside of it each way."""

_OFFSET = 1.0
_SHOWN = np.linspace(1, NODES, 23).round().astype(int)
"""Nodes with an arrow, each way."""


def sobolev_critic(nodes: int = NODES) -> Array:
    """Solution of ``-div(mu grad f) = p - q`` that is 0 at the boundary, ``mu = (p + q) / 2``.

    By the five-point stencil with mu halfway between nodes.

    Args:
        nodes: Inside of the square, each way.

    Returns:
        f at all nodes ``(nodes + 2, nodes + 2)``, those of the boundary included; x first.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    spacing = 2 * EDGE / (nodes + 1)
    inside = np.linspace(-EDGE, EDGE, nodes + 2)[1:-1]
    halfway = np.linspace(-EDGE + spacing / 2, EDGE - spacing / 2, nodes + 1)
    shape = (nodes + 1, nodes)
    difference = sparse.diags([1.0, -1.0], [0, -1], shape=shape) / spacing
    identity = sparse.identity(nodes)
    operator = 0
    for along, (x, y) in (
        (sparse.kron(difference, identity), np.meshgrid(halfway, inside, indexing="ij")),
        (sparse.kron(identity, difference), np.meshgrid(inside, halfway, indexing="ij")),
    ):
        mu = (_density(x - _OFFSET, y) + _density(x + _OFFSET, y)) / 2
        operator = operator + along.T @ sparse.diags(mu.ravel()) @ along
    x, y = np.meshgrid(inside, inside, indexing="ij")
    source = _density(x - _OFFSET, y) - _density(x + _OFFSET, y)
    solution = spsolve(sparse.csc_matrix(operator), source.ravel())
    return np.pad(solution.reshape(nodes, nodes), 1)


def node_gradients(values: Array) -> Array:
    """Central differences ``(2, n, n)`` at the inner nodes of values ``(n + 2, n + 2)``."""
    spacing = 2 * EDGE / (len(values) - 1)
    along_x = (values[2:, 1:-1] - values[:-2, 1:-1]) / (2 * spacing)
    along_y = (values[1:-1, 2:] - values[1:-1, :-2]) / (2 * spacing)
    return np.stack([along_x, along_y])


def gcmmd_critic(
    points: Tensor, bandwidth: float = EDGE, lam: float = 1.0, order: int = 16
) -> Tensor:
    """Best function of the ball of eq. 5, with ``mu = (P + Q) / 2``, and its gradient.

    Args:
        points: ``(N, 2)``.
        bandwidth: Of the Gaussian kernel; half the side of the square by default.
        lam: lambda.
        order: Of the Gauss-Hermite rule that stands for each normal distribution, each way.

    Returns:
        f and its two derivatives at the points, ``(N, 3)``.
    """
    offset, variance = points.new_tensor([_OFFSET, 0.0]), points.new_ones(())
    data, samples = Normal(offset, variance), Normal(-offset, variance)
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(order))
    weights = weights / weights.sum()
    around = torch.cartesian_prod(nodes, nodes)
    support = torch.cat([around + data.mean, around + samples.mean])
    shares = torch.cartesian_prod(weights, weights).prod(1).repeat(2) / 2
    constraint = GradientConstraint(support, shares, points.new_full((), bandwidth), lam)
    return constraint.critic(data, samples, points)


def _density(x: Array, y: Array) -> Array:
    return np.exp(-(x**2 + y**2) / 2) / (2 * math.pi)


def _draw(axes: Any, name: str, columns: dict[str, Array]) -> Any:
    """Arrows of unit length, coloured by the length of the gradient."""
    from matplotlib.colors import LogNorm

    field = np.stack([columns[f"d{name}/dx"], columns[f"d{name}/dy"]])
    length = np.hypot(*field)
    arrows = axes.quiver(
        columns["x"],
        columns["y"],
        *(field / length),
        length,
        norm=LogNorm(1e-2, 10),
        pivot="mid",
        scale=27,
        width=0.005,
    )
    angle = np.linspace(0, 2 * math.pi, 200)
    for centre, colour, letter in ((_OFFSET, "tab:red", "P"), (-_OFFSET, "tab:blue", "Q")):
        axes.plot(centre + np.cos(angle), np.sin(angle), color=colour)
        axes.text(centre, 1.05, letter, color=colour, fontsize="x-large", weight="bold")
    axes.set(title=f"gradient of the {name} critic", xlabel="x", ylabel="y", aspect="equal")
    return arrows


def _shown() -> dict[str, Array]:
    """Positions of the arrows, and both critics and their gradients there."""
    place = np.linspace(-EDGE, EDGE, NODES + 2)[_SHOWN]
    x, y = (axis.ravel() for axis in np.meshgrid(place, place, indexing="ij"))
    values = sobolev_critic()
    everything = np.stack([values[1:-1, 1:-1], *node_gradients(values)])
    sobolev = everything[:, _SHOWN - 1][:, :, _SHOWN - 1].reshape(3, -1)
    gcmmd = gcmmd_critic(torch.from_numpy(np.stack([x, y], 1))).T.numpy()
    columns = {"x": x, "y": y}
    for name, found in (("GCMMD", gcmmd), ("Sobolev", sobolev)):
        columns |= dict(zip((name, f"d{name}/dx", f"d{name}/dy"), found, strict=True))
    return columns


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute both, and write the table and the figure."""
    folder = out_folder("critic_fields", str(__doc__), arguments)
    columns = _shown()
    write_table(folder / "critic_fields.csv", columns)
    with figure(folder / "critic_fields.png", 1, 2, (5.4, 4.8)) as (axes,):
        for panel, name in zip(axes, ("GCMMD", "Sobolev"), strict=True):
            arrows = _draw(panel, name, columns)
        label = r"$\|\nabla f\|$"
        axes[0].figure.colorbar(arrows, ax=axes, label=label, extend="both")


if __name__ == "__main__":
    console(main, "critic_fields")
