"""The closed forms of the studies against quadrature, autograd and the losses."""

import numpy as np
import pytest
import torch

from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.scaled_mmd import gradient_constrained_mmd2
from lightning_igm.studies._closed_forms import (
    GradientConstraint,
    Normal,
    inner_products,
    mmd2,
    peak,
    witness,
)

DRAW = torch.Generator().manual_seed(0)
H = torch.tensor(0.7, dtype=torch.float64)


def normal(*shape):
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


def mass(x):
    return Normal(x, x.new_zeros(x.shape[:-1]))


def kernel(a, b):
    return (-(a[:, None] - b[None]).square().sum(-1) / (2 * H**2)).exp()


def sample_of(p, order=40):
    """Points and weights that integrate against a normal distribution."""
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(order))
    grid = [
        torch.cartesian_prod(*[x] * len(p.mean)).view(-1, len(p.mean)) for x in (nodes, weights)
    ]
    return p.mean + p.variance.sqrt() * grid[0], grid[1].prod(1) / grid[1].prod(1).sum()


def variance(value):
    return torch.tensor(value, dtype=torch.float64)


P1, Q1 = Normal(variance([0.3]), variance(0.2)), Normal(variance([-0.5]), variance(0.6))
P2, Q2 = Normal(variance([0.3, 1]), variance(0.2)), Normal(variance([-0.5, 0]), variance(0.6))


@pytest.mark.parametrize(("p", "q"), [(P1, Q1), (P2, Q2), (P2, mass(variance([1.0, 2.0])))])
def test_mmd_and_witness_equal_quadrature(p, q):
    (x, v), (y, w) = sample_of(p), sample_of(q)
    slow = v @ kernel(x, x) @ v + w @ kernel(y, y) @ w - 2 * v @ kernel(x, y) @ w
    torch.testing.assert_close(mmd2(p, q, H), slow, rtol=1e-9, atol=0)
    points = normal(5, len(p.mean)).requires_grad_()
    values = v @ kernel(x, points) - w @ kernel(y, points)
    (gradients,) = torch.autograd.grad(values.sum(), points)
    expected = torch.cat([values.detach()[:, None], gradients], 1)
    torch.testing.assert_close(witness(p, q, H, points.detach()), expected, rtol=1e-8, atol=1e-10)


def test_inner_products_are_derivatives_of_the_kernel():
    a, b = normal(3, 2), normal(4, 2)
    slow = torch.zeros(3, 3, 4, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(4):

            def k(x, y):
                return kernel(x[None], y[None]).squeeze()

            pair = (a[i], b[j])
            slow[i, 0, j, 0] = k(*pair)
            slow[i, 1:, j, 0], slow[i, 0, j, 1:] = torch.autograd.functional.jacobian(k, pair)
            slow[i, 1:, j, 1:] = torch.autograd.functional.hessian(k, pair)[0][1]
    fast = inner_products(a, b, H).view_as(slow)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-14)


def test_batches_are_problems_of_their_own():
    a, b, h = normal(2, 3, 2), normal(2, 4, 2), torch.tensor([0.5, 2.0]).double()
    together = inner_products(a, b, h)
    for i in range(2):
        torch.testing.assert_close(together[i], inner_products(a[i], b[i], h[i]))


@pytest.mark.parametrize("dim", [1, 2])
def test_gcmmd_of_point_masses_equals_the_loss(dim):
    x, y, z, weights = normal(dim), normal(dim), normal(6, dim), normal(6).square()
    constraint = GradientConstraint(z, weights, H, lam=0.3)
    seen = witness(mass(x), mass(y), H, z).flatten()[:, None]
    value = constraint.gcmmd2(mmd2(mass(x), mass(y), H)[None], seen)
    expected = gradient_constrained_mmd2(
        Gaussian(float(H)), lambda v: v, x[None], y[None], z, 0.3, weights=weights
    )
    torch.testing.assert_close(value, expected[None], rtol=1e-9, atol=0)


def test_the_critic_is_on_the_ball_and_reaches_the_gcmmd():
    lam, z, weights = 0.3, normal(6, 2), normal(6).square()
    constraint = GradientConstraint(z, weights, H, lam)
    seen = witness(P2, Q2, H, z).flatten()[:, None]
    gcmmd2 = constraint.gcmmd2(mmd2(P2, Q2, H)[None], seen)
    (x, v), (y, w) = sample_of(P2), sample_of(Q2)
    difference = v @ constraint.critic(P2, Q2, x)[:, 0] - w @ constraint.critic(P2, Q2, y)[:, 0]
    torch.testing.assert_close(difference[None], gcmmd2.sqrt(), rtol=1e-8, atol=0)
    # f = (witness - its part in the functionals' span) / ..., whose norm is known by its values.
    on_support = constraint.critic(P2, Q2, z)
    seen_norm = (weights[:, None] * on_support.square()).sum()
    coefficients = constraint.coefficients(seen)
    gram = inner_products(z, z, H)
    inside = mmd2(P2, Q2, H) - 2 * seen.T @ coefficients + coefficients.T @ gram @ coefficients
    norm = inside.squeeze() / (lam**2 * gcmmd2.squeeze())
    assert float(seen_norm + lam * norm) == pytest.approx(1, rel=1e-9)


def test_the_critics_derivatives_are_those_of_its_values():
    constraint = GradientConstraint(normal(6, 2), normal(6).square(), H, 0.3)
    points = normal(4, 2).requires_grad_()
    f = constraint.critic(P2, Q2, points)
    (gradients,) = torch.autograd.grad(f[:, 0].sum(), points)
    torch.testing.assert_close(f[:, 1:].detach(), gradients, rtol=1e-9, atol=1e-12)


def test_points_of_weight_zero_do_not_count():
    z, weights = normal(6, 1), normal(6).square()
    more = torch.cat([z, normal(1, 1)]), torch.cat([weights, weights.new_zeros(1)])
    values = []
    for points, shares in ((z, weights), more):
        seen = witness(P1, Q1, H, points).flatten()[:, None]
        values.append(
            GradientConstraint(points, shares, H, 1.0).gcmmd2(mmd2(P1, Q1, H)[None], seen)
        )
    torch.testing.assert_close(*values)


def test_the_peak_of_a_parabola_in_log_position_is_exact():
    positions = torch.logspace(-1, 1, 21, dtype=torch.float64)
    tops = torch.tensor([0.31, 2.9])
    value, at = peak(3 - (positions / tops[:, None]).log().square(), positions)
    assert value.tolist() == pytest.approx([3, 3])
    assert at.tolist() == pytest.approx(tops.tolist())


def test_curves_that_are_flat_or_have_their_peak_at_an_end_are_not_extrapolated():
    positions = torch.tensor([1.0, 2, 4, 8])
    curves = torch.tensor([[1.0, 1, 1, 1], [4.0, 3, 2, 1], [1.0, 3, 4, 9]])
    value, at = peak(curves, positions)
    assert value.tolist() == [1, 4, 9]
    assert at.tolist()[1:] == [1, 8]
