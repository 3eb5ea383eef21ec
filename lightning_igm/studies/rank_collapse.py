"""Critics whose gradients vanish on average while their largest gradient stays.

The two examples of Fig. 4 of "On gradient regularizers for MMD GANs" (Arbel, Sutherland, Bińkowski
and Gretton, 2018, https://arxiv.org/abs/1805.11565, appendix A.2.3)::

    python -m lightning_igm.studies.rank_collapse --out runs/rank_collapse

writes ``rank_collapse.png`` and ``rank_collapse.csv``. In the first the weight matrix loses its
rank: what bounds its condition number keeps the mean and the largest gradient together. In the
second a layer is wider than the one before it, which the paper's theorem does not allow.

All numbers are exact: a network of one hidden layer in the plane has a constant gradient in each
sector between the lines where a hidden unit changes sign.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_igm.studies._figure import console, figure, out_folder, write_table

__all__ = ["EXAMPLES", "Critic", "losing_rank", "main", "widening"]

_PARAMETERS = torch.logspace(-3, 0, 61, dtype=torch.float64)
_SHOWN = 0.3
"""The parameter of which the sectors are drawn."""


class Critic(NamedTuple):
    """``output . leaky_relu(weight x)`` of x in the plane, with the slope 0.2.

    Attributes:
        weight: ``(K, 2)``.
        output: ``(K,)``.
        slope: Of the leaky ReLU, below 0.
    """

    weight: Tensor
    output: Tensor
    slope: float = 0.2

    def gradients(self, points: Tensor) -> Tensor:
        """Gradients in x ``(..., 2)`` at points ``(..., 2)``."""
        positive = (points @ self.weight.T >= 0).to(self.weight)
        slopes = self.slope + (1 - self.slope) * positive
        return (slopes * self.output) @ self.weight

    def sectors(self) -> tuple[Tensor, Tensor]:
        """Probabilities ``(2 K,)`` of the sectors under N(0, I), and the squared gradient norms."""
        edges = torch.atan2(self.weight[:, 0], -self.weight[:, 1]) % math.pi
        edges = torch.cat([edges, edges + math.pi]).sort().values
        angles = torch.cat([edges[1:], edges[:1] + 2 * math.pi]) - edges
        middle = edges + angles / 2
        gradients = self.gradients(torch.stack([middle.cos(), middle.sin()], 1))
        return angles / (2 * math.pi), gradients.square().sum(1)

    def mean_squared_gradient(self) -> Tensor:
        """``E ||grad phi(X)||^2`` under N(0, I), ``()``."""
        probabilities, squares = self.sectors()
        return probabilities @ squares

    def squared_lipschitz_constant(self) -> Tensor:
        """The largest ``||grad phi||^2``, ``()``."""
        probabilities, squares = self.sectors()
        return squares[probabilities > 0].max()

    def condition_number(self) -> Tensor:
        """Of the weight matrix, ``()``."""
        values: Tensor = torch.linalg.svdvals(self.weight)
        return values[0] / values[-1]


def losing_rank(alpha: float) -> Critic:
    """Fig. 4 (a): two units that become one as alpha falls.

    Example:
        >>> round(losing_rank(1.0).mean_squared_gradient().item(), 6)
        0.716639
    """
    weight = torch.tensor([[1, 1], [1, 1 + alpha]], dtype=torch.float64)
    return Critic(weight, torch.tensor([1, -1], dtype=torch.float64))


def widening(beta: float) -> Critic:
    """Fig. 4 (b): three units in the plane, of which the outer two become one.

    Example:
        >>> round(widening(1.0).mean_squared_gradient().item(), 6)
        0.68
    """
    weight = torch.tensor([[1, 0], [0, beta], [1, beta]], dtype=torch.float64)
    return Critic(weight, torch.tensor([-1, 0, 1], dtype=torch.float64))


EXAMPLES = {"alpha": losing_rank, "beta": widening}
"""By the name of their parameter."""


def _curves(name: str) -> dict[str, Tensor]:
    critics = [EXAMPLES[name](parameter) for parameter in _PARAMETERS.tolist()]
    return {
        "condition number": torch.stack([c.condition_number() for c in critics]),
        "squared Lipschitz constant": torch.stack(
            [c.squared_lipschitz_constant() for c in critics]
        ),
        "mean squared gradient": torch.stack([c.mean_squared_gradient() for c in critics]),
    }


def _draw_sectors(axes: Any, name: str) -> Any:
    line = torch.linspace(-1, 1, 401, dtype=torch.float64)
    x, y = torch.meshgrid(line, line, indexing="xy")
    norms = EXAMPLES[name](_SHOWN).gradients(torch.stack([x, y], 2)).square().sum(2)
    mesh = axes.pcolormesh(x.numpy(), y.numpy(), norms.numpy(), vmin=0)
    axes.set(
        title=rf"$\|\nabla\phi_\{name}(x)\|^2$ at $\{name} = {_SHOWN}$",
        xlabel="$x_1$",
        ylabel="$x_2$",
        aspect="equal",
    )
    return mesh


def _draw_curves(axes: Any, name: str, curves: dict[str, Tensor]) -> None:
    for label, curve in curves.items():
        axes.loglog(_PARAMETERS.numpy(), curve.numpy(), label=label)
    axes.set(title=rf"$\phi_\{name}$", xlabel=rf"$\{name}$")
    axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute all, and write the table and the figure."""
    folder = out_folder("rank_collapse", str(__doc__), arguments)
    table: dict[str, Any] = {}
    with figure(folder / "rank_collapse.png", 2, 2, (4.6, 3.6)) as axes:
        for (sectors, panel), name in zip(axes, EXAMPLES, strict=True):
            curves = _curves(name)
            sectors.figure.colorbar(_draw_sectors(sectors, name), ax=sectors)
            _draw_curves(panel, name, curves)
            table |= {name: _PARAMETERS} | {f"{key} of {name}": c for key, c in curves.items()}
    write_table(folder / "rank_collapse.csv", table)


if __name__ == "__main__":
    console(main, "rank_collapse")
