"""The study of point masses: end points, fields and distances, all with known numbers."""

import csv
import math

import pytest
import torch

from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.scaled_mmd import gradient_constrained_mmd2, lipschitz_mmd, smmd2
from lightning_igm.studies import dirac
from lightning_igm.studies.dirac import LOSSES, STARTS, trajectories, vector_field

END_POINTS = {
    "MMD": {
        (8, 0.5): (8.0000, 0.5000),
        (8, 2.75): (7.7167, 1.7645),
        (8, 5): (6.4033, 1.4347),
        (8, 7.25): (3.4404, 0.7127),
        (8, 9.5): (0.0261, 5.1177),
        (3, 0.5): (3.0000, 0.4998),
        (3, 2.75): (1.1717, 0.2152),
        (3, 5): (0.0000, 3.9959),
        (3, 7.25): (0.0353, 6.5990),
        (3, 9.5): (0.2778, 9.0176),
    },
    "SMMD": {
        (8, 0.5): (0.0000, 0.7404),
        (8, 2.75): (0.0000, 0.7404),
        (8, 5): (0.0000, 0.7404),
        (8, 7.25): (0.0000, 0.7414),
        (8, 9.5): (0.0409, 5.2460),
        (3, 0.5): (0.0000, 0.7399),
        (3, 2.75): (0.0000, 1.0538),
        (3, 5): (0.0000, 4.0511),
        (3, 7.25): (0.0397, 6.6133),
        (3, 9.5): (0.2868, 9.0237),
    },
    "MMD-GP": {
        (8, 9.5): (0.0000, 1.8983),
        (3, 2.75): (0.0000, 2.5216),
        (3, 5): (0.0000, 2.4357),
        (3, 9.5): (0.2190, 8.4017),
    },
    "MMD-GP-Unif": {
        (8, 5): (6.7257, 1.5550),
        (8, 7.25): (4.7229, 1.0976),
        (3, 5): (0.0000, 2.2655),
    },
    "Sobolev-MMD": {
        (8, 2.75): (7.7133, 1.7642),
        (8, 5): (6.3410, 1.4196),
        (8, 9.5): (0.0128, 4.7840),
        (3, 5): (0.0000, 3.8012),
    },
    "CenteredSobolev-MMD": {(8, 5): (6.4036, 1.4347), (3, 2.75): (1.1721, 0.2152)},
    "SN-MMD": {(8, 5): (8.0000, 5), (3, 5): (0.0000, 5), (3, 0.5): (0.0000, 0.5)},
}


@pytest.mark.parametrize("name", END_POINTS)
def test_end_points(name):
    paths = trajectories(LOSSES[name])
    assert paths.shape == (1000, 10, 2)
    assert paths[0].tolist() == [list(start) for start in STARTS]
    for start, end in END_POINTS[name].items():
        assert paths[-1, STARTS.index(start)].tolist() == pytest.approx(end, abs=5.1e-5)


def test_a_trajectory_ends_before_b_would_be_negative():
    paths = trajectories(lambda theta, b: (theta, -b), [(1.0, 0.35), (1.0, 9.0)], steps=6)
    assert paths[:, 0, 1].tolist() == pytest.approx([0.35, 0.25, 0.15, 0.05, 0.05, 0.05, 0.05])
    assert paths[:, 0, 0].tolist() == pytest.approx([1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7])
    assert paths[-1, 1].tolist() == pytest.approx([0.4, 8.4])


def around(name, theta, b, step=1e-5):
    """The field by central differences of the loss."""
    theta, b = (torch.tensor([x], dtype=torch.float64) for x in (theta, b))
    loss = LOSSES[name]
    down = (loss(theta + step, b)[0] - loss(theta - step, b)[0]) / (2 * step)
    up = (loss(theta, b + step)[1] - loss(theta, b - step)[1]) / (2 * step)
    field = vector_field(loss, theta, b)
    return [x.item() for x in field], [-down.item(), up.item()]


@pytest.mark.parametrize("name", LOSSES)
def test_fields_are_gradients_of_what_the_players_play_for(name):
    actual, expected = around(name, 2.0, 1.3)
    # The points of the Lipschitz bound move with theta in the differences.
    assert actual == pytest.approx(expected, rel=2e-2 if name == "LipMMD" else 1e-6, abs=1e-8)


def witness_slopes(theta, b, points):
    points = points.clone().requires_grad_()
    f = (-(points**2) / (2 * b**2)).exp() - (-((points - theta) ** 2) / (2 * b**2)).exp()
    return torch.autograd.grad(f.sum(), points)[0].abs()


PENALTIES = {
    "MMD-GP": lambda slopes, _: (slopes - 1) ** 2,
    "MMD-GP-Unif": lambda _, between: ((between - 1) ** 2).mean(),
    "Sobolev-MMD": lambda slopes, _: (slopes**2 - 1) ** 2,
    "CenteredSobolev-MMD": lambda slopes, _: slopes**4,
}


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize(("theta", "b"), [(2.0, 1.3), (-1.5, 0.8)])
def test_penalties_are_those_of_the_witness(name, theta, b):
    at = witness_slopes(theta, b, torch.tensor([0.0, theta], dtype=torch.float64))
    assert at[0] == pytest.approx(at[1])
    steps = torch.linspace(0, theta, 20_001, dtype=torch.float64)
    between = witness_slopes(theta, b, (steps[1:] + steps[:-1]) / 2)
    descended, ascended = LOSSES[name](*(torch.tensor([x]).double() for x in (theta, b)))
    expected = PENALTIES[name](at[0], between).item()
    assert (descended - ascended).item() == pytest.approx(expected, rel=1e-6)


def test_mmd_and_smmd_are_the_losses_of_the_package():
    theta, b = torch.tensor([2.0]).double(), torch.tensor([1.3]).double()
    x, y = torch.zeros(1, 1).double(), theta[None]
    value = mmd2(Gaussian(1.0), x / b, y / b, estimator="biased")
    torch.testing.assert_close(LOSSES["MMD"](theta, b)[0][0], value)
    value = smmd2(Gaussian(1.0), lambda v: v / b, x, y, mu=x, lam=0, estimator="biased")
    torch.testing.assert_close(LOSSES["SMMD"](theta, b)[0][0], value.detach())


@pytest.mark.parametrize(("theta", "b"), [(2.0, 1.3), (9.0, 0.5), (0.5, 8.0), (-2.0, 1.3)])
def test_gcmmd_is_the_loss_of_the_package_with_a_fine_measure(theta, b):
    z = torch.linspace(-60, 60, 601, dtype=torch.float64)
    weights = (-0.5 * (z / 10) ** 2).exp() / (10 * math.sqrt(2 * math.pi)) * (z[1] - z[0])
    x, y = torch.zeros(1, 1).double(), torch.tensor([[theta]]).double()
    with torch.no_grad():
        expected = gradient_constrained_mmd2(
            Gaussian(b), lambda v: v, x, y, z[:, None], 1.0, weights=weights
        )
    actual = dirac.gcmmd(*(torch.tensor([x]).double() for x in (theta, b)))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_lipschitz_is_the_loss_of_the_package_with_fine_points():
    for theta in (0.5, 3.0, -3.0):
        z = torch.linspace(-5, 5 + abs(theta), 301, dtype=torch.float64) * math.copysign(1, theta)
        x, y = torch.zeros(1, 1).double(), torch.tensor([[theta]]).double()
        expected = lipschitz_mmd(Gaussian(1.0), x, y, z[:, None], 1.0)
        actual = dirac.lipschitz(torch.tensor([theta]).double(), torch.ones(1).double(), density=8)
        assert actual.sqrt().item() == pytest.approx(expected.item(), rel=2e-3)


DISTANCES = {
    0.1: (0.09332, 5.257),
    0.25: (0.21156, 3.269),
    0.5: (0.36440, 2.250),
    1: (0.56378, 1.514),
    2: (0.75936, 0.984),
    3: (0.84758, 0.750),
    5: (0.92245, 0.520),
}


def test_distances_of_scaled_mmd():
    theta = torch.tensor(list(DISTANCES), dtype=torch.float64)
    found = zip(*(x.tolist() for x in dirac.smmd_distance(theta)), strict=True)
    for (distance, psi), (expected, expected_psi) in zip(found, DISTANCES.values(), strict=True):
        assert distance == pytest.approx(expected, abs=5.1e-6)
        assert psi == pytest.approx(expected_psi, abs=5.1e-4)


def test_distances_are_bounded_as_they_must_be():
    theta = torch.tensor([0.01, 0.3, 4.0], dtype=torch.float64)
    scaled, _ = dirac.smmd_distance(theta)
    constrained, _ = dirac.gcmmd_distance(theta)
    lipschitz, _ = dirac.lipschitz_distance(theta)
    assert (scaled <= lipschitz).all()
    assert (lipschitz <= theta * 1.01).all()
    assert (constrained <= math.sqrt(2)).all()
    # All but the MMD's go to 0 as the masses meet.
    assert scaled[0] < 0.01
    assert constrained[0] < constrained[1] < constrained[2]


def test_the_command_writes_figures_and_tables(tmp_path, monkeypatch):
    quick = dict.fromkeys(("GCMMD", "LipMMD", "MMD-GP-Unif"), LOSSES["SMMD"])
    monkeypatch.setattr(dirac, "LOSSES", LOSSES | quick)
    monkeypatch.setattr(dirac, "gcmmd_distance", dirac.smmd_distance)
    monkeypatch.setattr(dirac, "lipschitz_distance", dirac.smmd_distance)
    dirac.main(["--out", str(tmp_path / "new" / "folder")])
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {
        *("dirac.png", "fields.png", "end_points.csv", "distances.csv")
    }
    assert (folder / "fields.png").stat().st_size > 100_000
    with (folder / "end_points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    row = next(
        r for r in rows if r["loss"] == "SMMD" and r["theta_0"] == "8" and r["b_0"] == "2.75"
    )
    assert float(row["b"]) == pytest.approx(0.7404, abs=5.1e-5)
