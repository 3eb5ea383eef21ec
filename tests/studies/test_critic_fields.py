"""The study of critics over the plane: known numbers, and where gradients point."""

import csv

import numpy as np
import pytest
import torch

from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.scaled_mmd import gradient_constrained_mmd2
from lightning_igm.studies import critic_fields
from lightning_igm.studies.critic_fields import EDGE, NODES, gcmmd_critic, node_gradients


@pytest.fixture(scope="module")
def sobolev():
    return critic_fields.sobolev_critic()


def plane():
    inside = np.linspace(-EDGE, EDGE, NODES + 2)[1:-1]
    return np.meshgrid(inside, inside, indexing="ij")


def towards_the_data(gradients):
    """Components along the way to (1, 0), not scaled."""
    x, y = plane()
    return gradients[0] * (1 - x) - gradients[1] * y


def at_the_edge():
    ring = np.ones((NODES, NODES), dtype=bool)
    ring[1:-1, 1:-1] = False
    return ring


def test_known_numbers(sobolev):
    spacing = 2 * EDGE / (NODES + 1)
    middle = (NODES + 1) // 2
    assert sobolev.shape == (121, 121)
    assert sobolev[1, middle] / spacing == pytest.approx(-12.813, abs=5.1e-4)
    assert node_gradients(sobolev)[0, middle - 1, middle - 1] == pytest.approx(2.682, abs=5.1e-4)
    assert np.abs(sobolev).max() == pytest.approx(4.3583, abs=5.1e-5)


def test_the_solution_is_that_of_the_stencil_and_the_boundary(sobolev):
    """Node by node, with mu at half points."""
    spacing = 2 * EDGE / (NODES + 1)

    def density(x, y, centre):
        return np.exp(-((x - centre) ** 2 + y**2) / 2) / (2 * np.pi)

    def mu(x, y):
        return (density(x, y, 1) + density(x, y, -1)) / 2

    for i, j in ((1, 1), (1, 60), (37, 80), (119, 3)):
        x, y = -EDGE + i * spacing, -EDGE + j * spacing
        flow = 0
        for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            half = mu(x + a * spacing / 2, y + b * spacing / 2)
            flow += half * (sobolev[i, j] - sobolev[i + a, j + b]) / spacing**2
        assert flow == pytest.approx(density(x, y, 1) - density(x, y, -1), rel=1e-6)
    boundary = [sobolev[0], sobolev[-1], sobolev[:, 0], sobolev[:, -1]]
    assert not np.any(boundary)


def test_sobolev_gradients_at_the_edge_point_away_from_the_data(sobolev):
    gradients = node_gradients(sobolev)
    left = at_the_edge() & (plane()[0] < 0)
    assert (towards_the_data(gradients)[left] < 0).all()
    lengths = np.hypot(*gradients)
    assert lengths[at_the_edge()].max() > 3 * lengths[30:-30, 30:-30].max()


def test_gcmmd_gradients_are_largest_between_samples_and_data():
    x, y = plane()
    points = torch.from_numpy(np.stack([x[::7, ::7].ravel(), y[::7, ::7].ravel()], 1))
    lengths = gcmmd_critic(points)[:, 1:].norm(dim=1)
    centre = gcmmd_critic(torch.zeros(1, 2).double())[0]
    assert centre[1] > 0
    assert centre[1:].norm() >= lengths.max()
    assert centre[1:].norm() > 5 * lengths[points[:, 0].abs() == points.max()].min()
    assert points.shape == (289, 2)


def test_the_gcmmd_critic_reaches_the_loss_of_samples():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2000, 2, generator=draw, dtype=torch.float64)
    offset = torch.tensor([1.0, 0.0])
    x, y = x + offset, y - offset
    # The mixture of both, as a measure.
    z = torch.cat([x[:200], y[:200]])
    with torch.no_grad():
        square = gradient_constrained_mmd2(Gaussian(1.0), lambda v: v, x, y, z, lam=0.01)
    f_x, f_y = (gcmmd_critic(points, 1.0, lam=0.01)[:, 0] for points in (x, y))
    assert (f_x.mean() - f_y.mean()).item() == pytest.approx(square.sqrt().item(), rel=0.05)


def test_the_rule_of_the_measure_is_fine_enough():
    points = torch.tensor([[-4.0, 0], [0, 0], [1, 0.5], [4, 4]]).double()
    coarse, fine = (gcmmd_critic(points, order=order) for order in (16, 24))
    torch.testing.assert_close(coarse, fine, rtol=1e-9, atol=1e-12)


def test_the_critic_changes_its_sign_with_the_data_and_samples_swapped():
    points = torch.tensor([[-3.0, 1], [0.5, -2]]).double()
    mirrored = points * torch.tensor([-1.0, 1.0])
    here, there = gcmmd_critic(points), gcmmd_critic(mirrored)
    torch.testing.assert_close(here * torch.tensor([-1.0, 1.0, -1.0]), there)


def test_the_command_writes_the_figure_and_the_table(tmp_path):
    critic_fields.main(["--out", str(tmp_path)])
    assert (tmp_path / "critic_fields.png").stat().st_size > 50_000
    with (tmp_path / "critic_fields.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23**2
    (row,) = (row for row in rows if abs(float(row["x"])) + abs(float(row["y"])) < 1e-9)
    assert float(row["dSobolev/dx"]) == pytest.approx(2.682, abs=5.1e-4)
