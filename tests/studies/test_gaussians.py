"""The study of normal distributions: the table of distances."""

import csv
import math

import pytest
import torch

from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.scaled_mmd import smmd2
from lightning_igm.studies import gaussians

CASES = [(0, 1), (1, 0.1), (2, 1), (5, 0.5), (10, 1)]
TABLE = {
    "MMD, h = 0.1": (0.67071, 1.07457, 0.78741, 0.84698, 0.80491),
    "MMD, h = 10": (0.00847, 0.09986, 0.19770, 0.48387, 0.88149),
    "optimized SMMD": (0.26634, 0.55096, 0.59778, 0.90376, 0.95092),
    "GCMMD, h = 0.1": (0.42250, 0.91475, 0.55510, 0.63202, 0.57442),
    "GCMMD, h = 10": (0.00772, 0.09930, 0.19600, 0.47456, 0.83428),
}
# Known from a coarse grid of bandwidths: the last digit may be one off.
COARSE = {
    "optimized GCMMD": (0.492, 1.130, 0.868, 1.184, 1.185),
    "h of SMMD": (0.615, 0.677, 1.172, 1.965, 3.448),
}


def columns(cases):
    return torch.tensor(cases, dtype=torch.float64).unbind(1)


@pytest.fixture(scope="module")
def found():
    return gaussians.distances(*columns(CASES))


@pytest.mark.parametrize("name", TABLE)
def test_table(found, name):
    assert found[name].tolist() == pytest.approx(TABLE[name], abs=5.1e-6)


@pytest.mark.parametrize("name", COARSE)
def test_table_of_best_bandwidths(found, name):
    assert found[name].tolist() == pytest.approx(COARSE[name], abs=1.5e-3)


def test_the_best_bandwidths_are_best(found):
    m, s = columns(CASES)
    for distance, name in ((gaussians.smmd, "SMMD"), (gaussians.gcmmd, "GCMMD")):
        best = found[f"h of {name}"].tolist()
        for factor in (0.98, 1, 1.02):
            values = [distance(factor * h, m, s)[i].item() for i, h in enumerate(best)]
            gap = found[f"optimized {name}"] - torch.tensor(values)
            assert ((gap > 1e-6) if factor != 1 else (gap.abs() < 1e-6)).all()


def test_closed_forms_are_the_limit_of_the_losses_on_samples():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4000, 1, generator=draw, dtype=torch.float64)
    x, y = 0.1 * x, 2 + y
    value = smmd2(Gaussian(0.8), lambda v: v, x, y, mu=x, lam=1.0)
    expected = gaussians.smmd(0.8, *columns([(2, 1)])).square()
    assert value.item() == pytest.approx(expected.item(), rel=0.02)


def test_equal_distributions_are_at_no_distance():
    found = gaussians.distances(*columns([(0, 0.1)]))
    values = [value.item() for name, value in found.items() if not name.startswith("h of")]
    assert values == pytest.approx([0] * 6, abs=1e-7)


def test_a_gradient_constrained_distance_is_at_most_the_mmd(found):
    for h in ("h = 0.1", "h = 10"):
        assert (found[f"GCMMD, {h}"] < found[f"MMD, {h}"]).all()
    assert (found["optimized SMMD"] < found["optimized GCMMD"]).all()
    assert (found["optimized GCMMD"] < math.sqrt(2)).all()


def test_the_command_writes_the_figure_and_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(gaussians, "_BANDWIDTHS", torch.logspace(-2, 2, 5).double())
    gaussians.main(["--out", str(tmp_path)])
    assert (tmp_path / "gaussians.png").stat().st_size > 50_000
    with (tmp_path / "gaussians.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = (row for row in rows if row["m"] == "10" and row["s"] == "1")
    assert float(row["MMD, h = 10"]) == pytest.approx(0.88149, abs=5.1e-6)
