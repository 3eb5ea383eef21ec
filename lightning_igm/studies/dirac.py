"""Vector fields, trajectories and distances of losses between two point masses.

The DiracGAN of "Which Training Methods for GANs do actually Converge?" (Mescheder, Geiger and
Nowozin, 2018, https://arxiv.org/abs/1801.04406), as in Figs. 1 and 5 of "On gradient regularizers
for MMD GANs" (Arbel, Sutherland, Bińkowski and Gretton, 2018, https://arxiv.org/abs/1805.11565)::

    python -m lightning_igm.studies.dirac --out runs/dirac

writes ``dirac.png`` (MMD, scaled MMD and the distances), ``fields.png`` (all losses),
``end_points.csv`` and ``distances.csv``, in a few minutes.

The data are all 0 and the samples all theta; the critic is x -> x / b and its kernel a Gaussian of
bandwidth 1. The generator descends in theta while the critic ascends in b.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.scaled_mmd import lipschitz_mmd
from lightning_igm.studies._closed_forms import GradientConstraint, Normal, mmd2, peak, witness
from lightning_igm.studies._figure import console, figure, out_folder, write_table

__all__ = [
    "LOSSES",
    "STARTS",
    "Loss",
    "gcmmd",
    "gcmmd_distance",
    "lipschitz",
    "lipschitz_distance",
    "main",
    "mmd",
    "smmd_distance",
    "trajectories",
    "vector_field",
]

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of theta and b, what the generator descends and what the critic ascends, element by element."""

STARTS = tuple((theta, b) for theta in (8.0, 3.0) for b in (0.5, 2.75, 5.0, 7.25, 9.5))
"""Starting points of the trajectories, (theta, b)."""

_STEPS, _RATE = 999, 0.1
_SPREAD = 10.0
"""Standard deviation of the measure of the gradient-constrained MMD, around the data."""
_NODES, _REACH = 81, 5.0  # Its points, from so many bandwidths below 0 to as many above theta.
_RATIOS = torch.logspace(math.log10(0.05), math.log10(30), 400, dtype=torch.float64)
"""The theta / b among which the best is sought."""
_MOST_POINTS, _SLOPE_STEP = 201, 1e-4
"""For the Lipschitz MMD: points of its bound, and relative step of its slope in b."""


def mmd(theta: Tensor, b: Tensor) -> Tensor:
    """Squared MMD, ``2 (1 - exp(-theta^2 / (2 b^2)))``."""
    return -2 * torch.expm1(-theta.square() / (2 * b.square()))


def gcmmd(theta: Tensor, b: Tensor, lam: float = 1.0) -> Tensor:
    """Squared gradient-constrained MMD, with the measure N(0, 10^2)."""
    with torch.no_grad():
        # The integrals do not depend on their nodes.
        length = theta.abs() + 2 * _REACH * b
        nodes = torch.linspace(0, 1, _NODES, dtype=theta.dtype) * length[..., None]
        nodes = nodes + theta.clamp_max(0)[..., None] - _REACH * b[..., None]
        density = (-0.5 * (nodes / _SPREAD).square()).exp() / (_SPREAD * math.sqrt(2 * math.pi))
        points, weights = nodes[..., None], density * length[..., None] / (_NODES - 1)
    data, samples = (Normal(x[..., None], torch.zeros_like(x)) for x in (0 * theta, theta))
    seen = witness(data, samples, b, points).flatten(-2)[..., None]
    constraint = GradientConstraint(points, weights, b, lam)
    return constraint.gcmmd2(mmd2(data, samples, b)[..., None], seen)[..., 0]


def lipschitz(theta: Tensor, b: Tensor, lam: float = 1.0, density: int = 2) -> Tensor:
    """Squared Lipschitz MMD, bounded at points around the data and the samples.

    Args:
        theta: Any shape.
        b: The same shape.
        lam: lambda.
        density: Points per bandwidth.
    """
    pairs = zip(theta.flatten(), b.flatten(), strict=True)
    return torch.stack([_lipschitz(*pair, lam, density) for pair in pairs]).view(theta.shape)


def _lipschitz(theta: Tensor, b: Tensor, lam: float, density: int) -> Tensor:
    """One of them; b, a mere number to the kernel, gets its gradient by finite differences."""
    width, apart = b.item(), theta.item()
    # Where no point is, the function is free to fall: at most by the MMD's bound, or by theta / 2.
    reach = 3 * width + min(abs(apart) / 2, math.sqrt(0.5 / lam))
    low, high = min(apart, 0.0) - reach, max(apart, 0.0) + reach
    # Odd, for a point in the middle, where two close masses need it.
    count = 2 * math.ceil(density * (high - low) / (2 * width)) + 1
    points = torch.linspace(low, high, min(count, _MOST_POINTS), dtype=theta.dtype)

    def square(width: float) -> Tensor:
        origin = torch.zeros_like(theta).view(1, 1)
        value = lipschitz_mmd(Gaussian(width), origin, theta.view(1, 1), points[:, None], lam)
        return value.square()

    if not b.requires_grad:
        return square(width)
    step = _SLOPE_STEP * width
    slope = (square(width + step) - square(width - step)).detach() / (2 * step)
    return square(width) + slope * (b - b.detach())


def _steepness(theta: Tensor, b: Tensor) -> Tensor:
    """Slope of the witness ``exp(-t^2 / 2 b^2) - exp(-(t - theta)^2 / 2 b^2)`` at data and samples.

    Its absolute value.
    """
    return theta.abs() / b.square() * (-theta.square() / (2 * b.square())).exp()


def _uniform_penalty(theta: Tensor, b: Tensor) -> Tensor:
    """Mean of ``(|slope of the witness| - 1)^2`` between data and samples."""
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(200))
    above, width = (nodes + 1) / 2 * theta[..., None], b[..., None]
    below = theta[..., None] - above
    slopes = [x * (-x.square() / (2 * width.square())).exp() for x in (above, below)]
    steepness = sum(slopes).abs() / width.square()  # type: ignore[union-attr]
    return (weights / 2 * (steepness - 1).square()).sum(-1)


def _alone(value: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Both players play for one value."""

    def loss(theta: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        both = value(theta, b)
        return both, both

    return loss


def _penalized(penalty: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """MMD^2, less a penalty for the critic."""
    return lambda theta, b: (mmd(theta, b), mmd(theta, b) - penalty(theta, b))


LOSSES: dict[str, Loss] = {
    "MMD": _alone(mmd),
    "SMMD": _alone(lambda theta, b: mmd(theta, b) / (1 + b**-2)),
    "MMD-GP": _penalized(lambda theta, b: (_steepness(theta, b) - 1).square()),
    "MMD-GP-Unif": _penalized(_uniform_penalty),
    "Sobolev-MMD": _penalized(lambda theta, b: (_steepness(theta, b).square() - 1).square()),
    "CenteredSobolev-MMD": _penalized(lambda theta, b: _steepness(theta, b) ** 4),
    "SN-MMD": _alone(lambda theta, b: mmd(theta, torch.ones_like(b))),
    "GCMMD": _alone(gcmmd),
    "LipMMD": _alone(lipschitz),
}
"""The losses of Figs. 1 and 5; SMMD is Eq. 7 with lambda = 0."""


def vector_field(loss: Loss, theta: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Directions of the players at positions of any shape.

    Example:
        >>> import torch
        >>> both = torch.tensor([1.0]), torch.tensor([1.0])
        >>> [round(v.item(), 4) for v in vector_field(LOSSES["MMD"], *both)]
        [-1.2131, -1.2131]
    """
    theta, b = (x.detach().requires_grad_() for x in (theta, b))
    descended, ascended = loss(theta, b)
    settings: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    (down,) = torch.autograd.grad(descended.sum(), theta, retain_graph=True, **settings)
    (up,) = torch.autograd.grad(ascended.sum(), b, **settings)
    return -down, up


def trajectories(
    loss: Loss,
    starts: Sequence[tuple[float, float]] = STARTS,
    steps: int = _STEPS,
    rate: float = _RATE,
) -> Tensor:
    """Positions ``(steps + 1, S, 2)`` of both players, who step at once.

    A trajectory ends before a step that would make b negative.
    """
    theta, b = torch.tensor(starts, dtype=torch.float64).unbind(1)
    positions = [torch.stack([theta, b], 1)]
    for _ in range(steps):
        towards_theta, towards_b = vector_field(loss, theta, b)
        inside = b + rate * towards_b > 0
        theta = torch.where(inside, theta + rate * towards_theta, theta)
        b = torch.where(inside, b + rate * towards_b, b)
        positions.append(torch.stack([theta, b], 1))
    return torch.stack(positions)


def smmd_distance(theta: Tensor, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Best scaled MMD over critics, for theta ``(N,)`` above 0, and the best psi = 1 / b.

    Example:
        >>> import torch
        >>> [round(x.item(), 3) for x in smmd_distance(torch.tensor([1.0], dtype=torch.float64))]
        [0.564, 1.514]
    """
    b = theta[:, None] / _RATIOS
    return _best(mmd(theta[:, None], b) / (lam + 1 + b**-2), b)


def gcmmd_distance(theta: Tensor, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Best gradient-constrained MMD over critics, and its psi; as :func:`smmd_distance`."""
    b = theta[:, None] / _RATIOS[::10]
    rows = [gcmmd(t.expand_as(row), row, lam) for t, row in zip(theta, b, strict=True)]
    return _best(torch.stack(rows), b)


def lipschitz_distance(theta: Tensor, lam: float = 1.0) -> tuple[Tensor, Tensor]:
    """Best Lipschitz MMD over critics, and its psi; as :func:`smmd_distance`."""
    b = theta[:, None] / _RATIOS[_RATIOS < 6][::12]
    return _best(lipschitz(theta[:, None].expand_as(b), b, lam, density=8), b)


def _best(squares: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Root of the largest of each row, and 1 / b there."""
    square, at = peak(squares, b)
    return square.sqrt(), 1 / at


def _distances(theta: Tensor) -> dict[str, Tensor]:
    columns = {"theta": theta, "MMD": torch.full_like(theta, math.sqrt(2))}
    columns["GCMMD"], _ = gcmmd_distance(theta)
    columns["LipMMD"], _ = lipschitz_distance(theta)
    columns["SMMD"], columns["psi of SMMD"] = smmd_distance(theta)
    return columns | {"root of Wasserstein": theta.sqrt()}


def _end_points(paths: dict[str, Tensor]) -> dict[str, Any]:
    losses = [name for name in paths for _ in STARTS]
    starts = torch.tensor(STARTS, dtype=torch.float64).repeat(len(paths), 1)
    ends = torch.cat([path[-1] for path in paths.values()])
    names = ("theta_0", "b_0", "theta", "b")
    return {"loss": losses} | dict(zip(names, torch.cat([starts, ends], 1).T, strict=True))


def _draw_field(axes: Any, name: str, paths: Tensor) -> None:
    theta, b = torch.meshgrid(
        torch.linspace(0, 10, 20, dtype=torch.float64),
        torch.linspace(0.1, 10, 20, dtype=torch.float64),
        indexing="xy",
    )
    towards = vector_field(LOSSES[name], theta, b)
    length = torch.hypot(*towards)
    arrows = [(x / length).nan_to_num().numpy() for x in towards]
    places = theta.numpy(), b.numpy()
    axes.quiver(*places, *arrows, angles="uv", color="0.55", scale=26, width=0.004)
    for path in paths.numpy().swapaxes(0, 1):
        (line,) = axes.plot(*path.T, linewidth=1.3)
        axes.plot(*path[0], "*", color=line.get_color(), markersize=9)
        axes.plot(*path[-1], "o", color=line.get_color(), markersize=4)
    axes.set(title=name, xlabel=r"$\theta$", ylabel=r"$1/\psi$", xlim=(-0.4, 10.4), ylim=(0, 10.4))


def _draw_distances(axes: Any, columns: dict[str, Tensor]) -> None:
    theta = columns["theta"].numpy()
    for name, label in (
        ("MMD", "MMD"),
        ("GCMMD", "GCMMD"),
        ("LipMMD", "LipMMD"),
        ("SMMD", "SMMD"),
        ("root of Wasserstein", r"$\sqrt{W_1}$"),
    ):
        values = columns[name].numpy()
        x, y = np.concatenate([-theta[::-1], theta]), np.concatenate([values[::-1], values])
        (line,) = axes.plot(x, y, "-" if name == label else "--", label=label)
        if name == "MMD":
            axes.plot(0, values[0], "o", color=line.get_color(), markerfacecolor="white")
    axes.set(title=r"best over $\psi$", xlabel=r"$\theta$", ylabel=r"$D(\delta_0, \delta_\theta)$")
    axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute all, and write the tables and the figures."""
    folder = out_folder("dirac", str(__doc__), arguments)
    paths = {name: trajectories(loss) for name, loss in LOSSES.items()}
    write_table(folder / "end_points.csv", _end_points(paths))
    distances = _distances(5 * torch.linspace(0.02, 1, 50, dtype=torch.float64) ** 2)
    write_table(folder / "distances.csv", distances)
    with figure(folder / "dirac.png", 1, 3, (4.2, 4)) as (axes,):
        for panel, name in zip(axes, ("MMD", "SMMD"), strict=False):
            _draw_field(panel, name, paths[name])
        _draw_distances(axes[2], distances)
    with figure(folder / "fields.png", 3, 3, (4, 3.8)) as axes:
        for panel, name in zip(axes.flat, LOSSES, strict=True):
            _draw_field(panel, name, paths[name])


if __name__ == "__main__":
    console(main, "dirac")
