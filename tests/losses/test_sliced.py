"""The energy distance by sorting: golden values, all pairs at once, ties, bad inputs."""

import math

import pytest
import torch
from golden_samples import X, Y, rows
from kernel_oracles import noise

from lightning_igm.losses.sliced import energy_scale, random_directions, sliced_energy_distance

GRADIENT = rows(
    "-.14518940 .00182416 -.18321742; -.03051511 .04209673 -.11654088; .00325459 .03844923"
    " -.06982528; -.09001543 .01394397 -.14338057; -.10930651 -.00008827 -.13399640;"
    "-.02139573 .07016122 -.16477202"
)


def four_directions():
    q = torch.arange(4, dtype=torch.float64)
    found = torch.stack([q.cos(), (2 * q).sin(), (3 * q).cos()], 1)
    return found / found.norm(dim=1, keepdim=True)


def all_pairs(x, y):
    """The energy distance of samples ``(N, D)``."""

    def mean(a, b):
        squares = (a[:, None] - b[None]).square().sum(-1)
        # No gradient at the pairs of a point with itself.
        return torch.where(squares > 0, squares, 1).sqrt().where(squares > 0, 0).mean()

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def dense(x, y, directions):
    """The same as the sliced distance, by all pairs of each direction."""
    values = [all_pairs(x @ t[:, None], y @ t[:, None]) for t in directions]
    return torch.stack(values).mean()


def test_golden_value_and_gradient():
    x = X.clone().requires_grad_()
    distance = sliced_energy_distance(x, Y, four_directions())
    assert distance.item() == pytest.approx(0.74505839, abs=5.1e-9)
    assert (torch.autograd.grad(distance, x)[0] - GRADIENT).abs().max() < 5.1e-9


@pytest.mark.parametrize("count", [16, 64, 1024])
def test_golden_values_of_points_in_the_plane(count):
    angles = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    found = energy_scale(2) * sliced_energy_distance(X[:, :2], Y[:, :2], directions).item()
    expected = {16: 0.22758386, 64: 0.22939410, 1024: 0.22942101}[count]
    assert found == pytest.approx(expected, abs=5.1e-9)
    assert all_pairs(X[:, :2], Y[:, :2]).item() == pytest.approx(0.22942077, abs=5.1e-9)


@pytest.mark.parametrize(("n", "m"), [(7, 7), (9, 4), (1, 5), (5, 1)])
def test_value_and_gradient_are_those_of_all_pairs(n, m):
    x, y, directions = noise(n, 3).requires_grad_(), noise(m, 3, seed=2), noise(4, 3, seed=3)
    actual, expected = sliced_energy_distance(x, y, directions), dense(x, y, directions)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    slopes = [torch.autograd.grad(3 * value, x)[0] for value in (actual, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_in_one_dimension_it_is_the_energy_distance():
    x, y = noise(6).requires_grad_(), noise(5, seed=2)
    actual = sliced_energy_distance(x, y, torch.ones(1, 1))
    expected = all_pairs(x[:, None], y[:, None])
    assert energy_scale(1) == pytest.approx(1, rel=1e-12)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
    slopes = [torch.autograd.grad(value, x)[0] for value in (actual, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_over_many_directions_it_is_the_energy_distance():
    draw = torch.Generator().manual_seed(0)
    directions = random_directions(20_000, X, draw)
    assert (directions.norm(dim=1) - 1).abs().max() < 1e-12
    values = torch.stack([sliced_energy_distance(X, Y, part) for part in directions.chunk(100)])
    mean, error = values.mean(), values.std() / 10
    assert all_pairs(X, Y).item() == pytest.approx(1.17325972, abs=5.1e-9)
    assert abs(energy_scale(3) * mean - 1.17325972) < 5 * energy_scale(3) * error


def test_equal_samples_have_neither_distance_nor_gradient():
    x = X.clone().requires_grad_()
    distance = sliced_energy_distance(x, X.flip(0), four_directions())
    assert distance.item() == pytest.approx(0, abs=1e-14)
    assert torch.autograd.grad(distance, x)[0].abs().max() < 1e-14


def test_ties_count_by_half():
    """The gradient is that of pairs which are apart, as |.| has at zero."""
    x = torch.tensor([0.0, 0.0, 1.0, 2.0], dtype=torch.float64).requires_grad_()
    y = torch.tensor([0.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    actual = sliced_energy_distance(x, y, torch.ones(1, 1))
    expected = all_pairs(x[:, None], y[:, None])
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = [torch.autograd.grad(value, x)[0] for value in (actual, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


def test_float32_half_precision_and_autocast():
    expected = sliced_energy_distance(X, Y, four_directions()).item()
    found = sliced_energy_distance(X.float(), Y.float(), four_directions()).item()
    assert found == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert sliced_energy_distance(X.float(), Y, four_directions()).dtype == torch.float32
    assert sliced_energy_distance(X.bfloat16(), Y, four_directions()).dtype == torch.float32


def test_the_gradient_is_taken_once():
    x = X.clone().requires_grad_()
    distance = sliced_energy_distance(x, Y, four_directions())
    (slope,) = torch.autograd.grad(distance, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(slope.sum(), x)


def test_bad_inputs_are_named():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"^directions: shape \(0, 2\) is not allowed"):
        sliced_energy_distance(x, x, x[:0])
    with pytest.raises(ValueError, match=r"^directions: features of length 1 are not allowed"):
        sliced_energy_distance(x, x, x[:, :1])
    with pytest.raises(ValueError, match=r"^real: features of length 1 are not allowed"):
        sliced_energy_distance(x, x[:, :1], x)
    with pytest.raises(ValueError, match=r"^fake: shape \(0, 2\) is not allowed"):
        sliced_energy_distance(x[:0], x, x)
    with pytest.raises(ValueError, match=r"^real: shape \(3, 2, 1\) is not allowed"):
        sliced_energy_distance(x, x[..., None], x)
    with pytest.raises(ValueError, match=r"^count: 0 is not allowed; it must be 1 or more"):
        random_directions(0, x)
    with pytest.raises(ValueError, match=r"^dim: 0 is not allowed"):
        energy_scale(0)
