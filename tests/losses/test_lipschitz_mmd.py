import importlib.util

import pytest
import torch
from kernel_oracles import (
    SMOOTH,
    Programme,
    finite_differences,
    noise,
    points,
    relative_error,
)
from scipy.optimize import linprog

from lightning_igm.losses import lipschitz
from lightning_igm.losses.gradient_constrained import gradient_constrained_mmd2
from lightning_igm.losses.kernels import Distance, Gaussian, Linear
from lightning_igm.losses.lipschitz import lipschitz_mmd
from lightning_igm.losses.mmd import mmd2

LINE = (points(0.0, 1.0), points(2.0, 3.5), points(0.0, 1.0, 2.0))
PLANE = (
    points([0.0, 0.0], [1.0, 0.0]),
    points([0.0, 2.0], [1.0, 1.0], [2.0, 2.0]),
    points([0.0, 0.0], [1.0, 1.0]),
)

PRINTED = [
    (LINE, 1.0, 0.5, 1.1136492),
    (LINE, 1.0, 1.0, 0.8777999),
    (LINE, 0.5, 0.1, 2.9347583),
    (PLANE, 1.0, 0.5, 1.0187707),
    (PLANE, 2.0, 0.1, 1.2946664),
]


@pytest.fixture(params=["clarabel", "newton"])
def solver(request, monkeypatch):
    if request.param == "clarabel":
        pytest.importorskip("clarabel")
    else:
        monkeypatch.setattr(lipschitz, "find_spec", lambda name: None)


@pytest.mark.parametrize(("where", "bandwidth", "lam", "expected"), PRINTED)
def test_printed_values(where, bandwidth, lam, expected, solver):
    x, y, z = where
    kernel = Gaussian(bandwidth)
    assert lipschitz_mmd(kernel, x, y, z, lam).item() == pytest.approx(expected, abs=5.1e-8)
    assert lipschitz_mmd(kernel, y, x, z, lam).item() == pytest.approx(expected, abs=5.1e-8)


@pytest.mark.parametrize(
    ("theta", "expected"), [(0.5, 0.342899), (1, 0.630506), (2, 0.996780), (3, 1.209909)]
)
def test_printed_values_of_two_points(theta, expected, solver):
    z = torch.linspace(-3, theta + 3, 61, dtype=torch.float64)
    value = lipschitz_mmd(Gaussian(1.0), points(0.0), points(float(theta)), z, 1.0).item()
    assert value == pytest.approx(expected, abs=5.1e-7)
    # Neither more than the Wasserstein distance, nor than MMD.
    assert value < theta
    assert value < mmd2(Gaussian(1.0), points(0.0), points(theta), estimator="biased") ** 0.5


@pytest.mark.parametrize("name", SMOOTH)
def test_no_function_of_the_span_does_better_and_one_does_as_well(name, solver):
    """Between the best of a primal and of a dual that are made by autograd."""
    kernel, formula = SMOOTH[name]
    x, y, z = noise(3, 2), noise(4, 2, seed=2) + 0.5, noise(5, 2, seed=3)
    lam = 0.1
    programme = Programme(formula, x, y, z)
    value = lipschitz_mmd(kernel, x, y, z, lam).item()
    # Any mixture of the constraints is a looser one.
    programme.values = torch.zeros_like(programme.values)
    for seed in range(20):
        mixture = noise(5, seed=seed).exp()
        mixture = mixture / mixture.sum()
        assert value**2 <= programme.maximum_in_the_mean(lam, mixture).item() * (1 + 1e-9)
    # The best function of the best mixture, made shorter until it keeps to every constraint.
    reached = best_of_dual(programme, lam)
    assert reached == pytest.approx(value, rel=1e-6)


def best_of_dual(programme, lam, steps=4000):
    """Largest value of a function that keeps to all constraints, by mirror descent of a mixture."""
    m = len(programme.values)
    mixture, reached = torch.full((m,), 1 / m, dtype=torch.float64), 0.0
    identity = lam * torch.eye(len(programme.objective), dtype=torch.float64)
    for _ in range(steps):
        mixed = torch.einsum("m,mdi,mdj->ij", mixture, programme.slopes, programme.slopes)
        w = torch.linalg.solve(identity + mixed, programme.objective)
        squares = (programme.slopes @ w).square().sum(1)
        length = (squares.max() + lam * w.dot(w)).sqrt()
        reached = max(reached, (programme.objective.dot(w) / length).item())
        mixture = mixture * squares.sqrt()
        mixture = mixture / mixture.sum()
    return reached


def test_dense_points_bound_it_by_the_wasserstein_distance(solver):
    x, y = noise(6), noise(6, seed=2) + 2
    wasserstein = (x.sort().values - y.sort().values).abs().mean().item()
    z = torch.linspace(-4, 6, 101, dtype=torch.float64)
    values = [lipschitz_mmd(Gaussian(1.0), x, y, z, lam).item() for lam in (1e-3, 1e-2, 1.0)]
    assert wasserstein > values[0] > values[1] > values[2]
    assert values[0] > 0.9 * wasserstein


def test_a_single_point_is_a_closed_form(solver):
    """With a single constraint there is nothing to mix."""
    x, y, z = noise(3, 2), noise(4, 2, seed=2), noise(1, 2, seed=3)
    programme = Programme(SMOOTH["rbf"][1], x, y, z)
    programme.values = torch.zeros_like(programme.values)
    expected = programme.maximum_in_the_mean(0.3).item()
    assert lipschitz_mmd(Gaussian(1.0), x, y, z, 0.3).item() ** 2 == pytest.approx(expected)


def test_it_is_at_least_the_gradient_constrained_one(solver):
    """Whose constraint is on the squares of values, too, but only in the mean of all points."""
    x, y, z = noise(4, 2), noise(4, 2, seed=2), noise(1, 2, seed=3)
    constrained = gradient_constrained_mmd2(Gaussian(), lambda x: x, x, y, z, 0.3)
    assert lipschitz_mmd(Gaussian(), x, y, z, 0.3) ** 2 > constrained


@pytest.mark.parametrize("where", [LINE, PLANE])
def test_the_gradient_is_that_of_finite_differences(where, solver):
    inputs = [t.clone() for t in where]

    def value():
        return lipschitz_mmd(Gaussian(1.0), *inputs, lam=0.2)

    expected = finite_differences(value, inputs, step=1e-4)
    for t in inputs:
        t.requires_grad_()
    actual = torch.cat([g.flatten() for g in torch.autograd.grad(value(), inputs)])
    assert relative_error(actual, expected) < 1e-5


def test_equal_samples_have_no_distance(solver):
    x = noise(4, 2).requires_grad_()
    for y in (x, x.detach().flip(0)):
        value = lipschitz_mmd(Gaussian(1.0), x, y, noise(3, 2, seed=2), 0.5)
        assert value.item() == pytest.approx(0, abs=1e-7)
        (slope,) = torch.autograd.grad(value, x)
        assert slope.isfinite().all()


def test_a_linear_kernel_has_the_closed_form(solver):
    """f = <w, .>: (1 + lambda) ||w||^2 <= 1 at every point."""
    x, y = noise(4, 2), noise(3, 2, seed=2)
    expected = (x.mean(0) - y.mean(0)).norm() / 1.5**0.5
    value = lipschitz_mmd(Linear(), x, y, noise(3, 2, seed=3), 0.5)
    assert value.item() == pytest.approx(expected.item(), rel=1e-7)


def test_float32_points_are_solved_in_float64(solver):
    x, y, z = (t.float() for t in PLANE)
    value = lipschitz_mmd(Gaussian(2.0), x, y, z, 0.1)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1.2946664, rel=1e-6)


def test_the_solver_is_optional():
    """What says that it is installed is asked anew on each call."""
    assert lipschitz.find_spec is importlib.util.find_spec


def test_bad_inputs_are_named(solver):
    x = torch.rand(3, 2)
    for lam in (0.0, -1.0):
        with pytest.raises(ValueError, match=rf"^lam: {lam} is not allowed; it must be above 0"):
            lipschitz_mmd(Gaussian(), x, x, x, lam)
    with pytest.raises(ValueError, match=r"^kernel: Distance\(\) is not allowed"):
        lipschitz_mmd(Distance(), x, x, x, 1.0)
    with pytest.raises(ValueError, match=r"^z: shape \(3, 2, 1\) is not allowed"):
        lipschitz_mmd(Gaussian(), x, x, x[..., None], 1.0)
    with pytest.raises(ValueError, match=r"^z: points of length 1 are not allowed"):
        lipschitz_mmd(Gaussian(), x, x, x[:, :1], 1.0)
    with pytest.raises(ValueError, match=r"^z: no points are not allowed"):
        lipschitz_mmd(Gaussian(), x, x, x[:0], 1.0)


def test_against_a_linear_programme(solver):
    """Of one dimension without a norm, the best slope is 1: lambda goes to 0."""
    x, y = points(0.0), points(1.0)
    z = torch.linspace(-1, 2, 31, dtype=torch.float64)
    kernel = Gaussian(1.0)
    centres = torch.linspace(-2, 3, 26, dtype=torch.float64)[:, None]
    differences = z[:, None] - centres[:, 0]
    slopes = (-differences * kernel(z, centres)).numpy()
    objective = (kernel(y, centres) - kernel(x, centres))[0].numpy()
    rows = torch.cat([torch.from_numpy(slopes), -torch.from_numpy(slopes)]).numpy()
    best = linprog(-objective, A_ub=rows, b_ub=[1.0] * 62, bounds=(-1e3, 1e3))
    value = lipschitz_mmd(kernel, x, y, z, 1e-6).item()
    assert value == pytest.approx(-best.fun, rel=2e-3)
