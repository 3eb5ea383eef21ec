import json

import jsonargparse
import pytest
import torch
from kernel_oracles import KERNELS, SMOOTH, gram_by_loops, noise, points, relative_error

from lightning_igm.losses import kernels
from lightning_igm.losses.kernels import (
    Distance,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Linear,
    RationalQuadratic,
    Sum,
)


@pytest.fixture(params=["differences", "expanded squares"])
def way(request, monkeypatch):
    """Squared distances by differences of points, and as they are made of many points."""
    if request.param == "expanded squares":
        monkeypatch.setattr(kernels, "_DIRECT_DIFFERENCES", 0)


every_kernel = pytest.mark.parametrize("name", KERNELS)
smooth_kernel = pytest.mark.parametrize("name", SMOOTH)


@every_kernel
def test_all_pairs_have_the_formulas_values(name, way):
    kernel, formula = KERNELS[name]
    a, b = noise(5, 3), noise(4, 3, seed=2)
    assert relative_error(kernel(a, b), gram_by_loops(formula, a, b)) < 1e-13
    assert kernel(a, b).shape == (5, 4)
    assert relative_error(kernel(a[:, 0], b[:, 0]), kernel(a[:, :1], b[:, :1])) == 0


@every_kernel
def test_gradients_are_those_of_the_formula(name, way):
    kernel, formula = KERNELS[name]
    a, b = noise(5, 3).requires_grad_(), noise(4, 3, seed=2).requires_grad_()
    weights = noise(5, 4, seed=3)
    actual = torch.autograd.grad((weights * kernel(a, b)).sum(), [a, b], create_graph=True)
    expected = torch.autograd.grad(
        (weights * gram_by_loops(formula, a, b)).sum(), [a, b], create_graph=True
    )
    for g, e in zip(actual, expected, strict=True):
        assert relative_error(g, e) < 1e-12
    seconds = [
        torch.autograd.grad((g * noise(*g.shape, seed=4)).sum(), a, retain_graph=True)[0]
        for g in (actual[1], expected[1])
    ]
    # Of a linear kernel in b in a: the weights alone.
    assert relative_error(*seconds) < 1e-11


@every_kernel
def test_gradients_at_points_that_coincide_are_finite(name, way):
    kernel, _ = KERNELS[name]
    a = points([1.0, 2.0], [1.0, 2.0], [0.0, 0.0]).requires_grad_()
    (gradient,) = torch.autograd.grad(kernel(a, a.detach().clone()).sum(), a, create_graph=True)
    assert gradient.isfinite().all()
    if name != "dot":
        (second,) = torch.autograd.grad(gradient.square().sum(), a)
        assert second.isfinite().all()
    (alone,) = torch.autograd.grad(kernel(a, a).sum(), a)
    assert alone.isfinite().all()


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_diagonal_is_exact(name, dtype, way):
    """Rounded distances of points from themselves would be hundreds here."""
    kernel, _ = KERNELS[name]
    a = (100 * noise(6, 4) + 3e4).to(dtype)
    diagonal = kernel.diagonal(a)
    assert diagonal.shape == (6,)
    tolerance = 0 if isinstance(kernel, Gaussian | RationalQuadratic | Distance) else 1e-6
    torch.testing.assert_close(kernel(a, a).diagonal(), diagonal, rtol=tolerance, atol=0)
    if name in ("rbf", "imq", "mix_rq"):
        assert torch.equal(kernel(a, a).diagonal(), diagonal)


def test_the_diagonals_of_the_paper():
    a = points([3.0, 4.0], [0.0, 0.0])
    assert Linear().diagonal(a).tolist() == [25, 0]
    assert SMOOTH["mix_rq_01dot"][0].diagonal(a).tolist() == pytest.approx([5.5, 3.0])
    assert InverseMultiquadric(2.0).diagonal(a).tolist() == [0.5, 0.5]
    root = 1e-5**0.5
    expected = [2 * (25 + 1e-5) ** 0.5 - root, root]
    assert Distance().diagonal(a).tolist() == pytest.approx(expected, rel=1e-12)


def test_small_distances_far_from_zero_keep_their_digits(monkeypatch):
    """In float32 a square of 1e6 has a rounding of 0.06; the points are 1e-3 to 3 apart."""
    a = (1000 + torch.linspace(0, 3, 40)[:, None].repeat(1, 2)).float()
    exact = (a.double()[:, None] - a.double()[None]).square().sum(-1)
    for limit, error in ((2**23, 1e-6), (0, 1e-5)):
        monkeypatch.setattr(kernels, "_DIRECT_DIFFERENCES", limit)
        distances = kernels.Pairs(a, a.clone()).squared_distances
        assert (distances >= 0).all()
        assert (distances - exact).abs().max() < error
    far = (3000 * noise(100, 50)).float()
    assert (kernels.Pairs(far, far.clone()).squared_distances >= 0).all()
    offset = torch.full((1, 2), 1e3, requires_grad=True)
    (gradient,) = torch.autograd.grad(Gaussian(1.0)(a + offset, a + offset).sum(), offset)
    assert gradient.abs().max() < 1e-3


@every_kernel
def test_autocast_and_half_precision_do_not_touch_the_result(name):
    kernel, _ = KERNELS[name]
    a, b = noise(5, 3).float(), noise(4, 3, seed=2).float()
    expected = kernel(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernel(a, b), expected)
        assert kernel.diagonal(a).dtype == torch.float32
    half = kernel(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, kernel(a.bfloat16().float(), b.bfloat16().float()))


# --- derivatives ------------------------------------------------------------------------------


@smooth_kernel
def test_the_scaling_constant_is_the_trace_of_mixed_derivatives(name):
    kernel, formula = SMOOTH[name]
    a, jacobian = noise(3), noise(3, 5, seed=2)
    mixed = torch.func.jacrev(torch.func.jacrev(formula, 0), 1)(a, a)
    trace = (jacobian.T @ mixed @ jacobian).diagonal().sum()
    expected = kernel.scaling_constant * jacobian.square().sum().item()
    assert trace.item() == pytest.approx(expected, rel=1e-12)


def test_the_scaling_constants_of_the_paper():
    assert Gaussian(0.5).scaling_constant == 4
    assert InverseMultiquadric(2.0).scaling_constant == 0.125
    assert [RationalQuadratic(alpha).scaling_constant for alpha in (0.1, 1, 10)] == [1, 1, 1]
    assert SMOOTH["mix_rq_1dot"][0].scaling_constant == 4
    assert SMOOTH["mix_rbf"][0].scaling_constant == pytest.approx(0.303281, rel=1e-5)


@smooth_kernel
def test_the_profile_and_the_linear_weight_make_the_kernel(name):
    kernel, formula = SMOOTH[name]
    a, b = noise(3), noise(3, seed=2)
    t = (a - b).square().sum()
    value, _, _ = kernel.profile(t)
    expected = formula(a, b).item()
    assert (value + kernel.linear_weight * a.dot(b)).item() == pytest.approx(expected, rel=1e-12)


@smooth_kernel
@pytest.mark.parametrize("distance", [0.0, 0.3, 4.0])
def test_the_profiles_derivatives(name, distance):
    kernel, _ = SMOOTH[name]
    t = points(distance, distance + 1).requires_grad_()
    value, slope, curvature = kernel.profile(t)
    if name == "dot":
        assert not torch.stack([value, slope, curvature]).any()
        return
    (first,) = torch.autograd.grad(value.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), t)
    assert relative_error(slope, first) < 1e-12
    assert relative_error(curvature, second) < 1e-12


@pytest.mark.parametrize("name", ["distance", "distance in a sum", "poly"])
def test_kernels_without_derivatives_at_zero_distance_say_so(name):
    kernel, _ = KERNELS[name]
    with pytest.raises(ValueError, match=r"^kernel: (Distance|Polynomial).*second derivative") as e:
        _ = kernel.scaling_constant
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="second derivative"):
        kernel.profile(points(1.0))


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("make", "argument"),
    [(Gaussian, "bandwidth"), (RationalQuadratic, "alpha"), (InverseMultiquadric, "c")],
)
def test_parameters_must_be_positive(make, argument, value):
    with pytest.raises(ValueError, match=rf"^{argument}: {value} is not allowed.*above 0"):
        make(value)


def test_sums_check_their_terms():
    with pytest.raises(ValueError, match=r"^kernels: \[\] is not allowed"):
        Sum([])
    with pytest.raises(ValueError, match=r"^weights: \[1.0\] is not allowed.*2 kernels"):
        Sum([Linear(), Linear()], [1.0])
    with pytest.raises(ValueError, match=r"^weights: -0.5 is not allowed"):
        Sum([Linear(), Linear()], [1.0, -0.5])


@pytest.mark.parametrize("kernel", [Gaussian(), Linear(), Sum([Linear(), Gaussian()])])
def test_features_of_two_precisions_count_in_the_better_one(kernel):
    a, b = torch.rand(3, 2), torch.rand(4, 2, dtype=torch.float64)
    assert torch.equal(kernel(a, b), kernel(a.double(), b))
    assert torch.equal(kernel(b, a), kernel(b, a.double()))


def test_features_that_do_not_fit_are_named():
    kernel = Gaussian()
    with pytest.raises(ValueError, match=r"^a: shape \(2, 3, 4\) is not allowed.*\(N, D\)"):
        kernel(torch.ones(2, 3, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^b: shape \(\) is not allowed"):
        kernel(torch.ones(2, 3), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^b: features of length 4 are not.*of length 3"):
        kernel(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"^a: shape \(2, 3, 4\)"):
        kernel.diagonal(torch.ones(2, 3, 4))


def test_kernels_show_their_arguments():
    kernel = Sum([Gaussian(2.0), Linear()], [1.0, 0.1])
    expected = "Sum(kernels=[Gaussian(bandwidth=2.0), Linear()], weights=[1.0, 0.1])"
    assert repr(kernel) == expected


def test_kernels_are_made_from_class_paths():
    path = "lightning_igm.losses.kernels."

    def same(kernel: Kernel):
        return kernel

    def made(config):
        return jsonargparse.auto_cli(same, args=[json.dumps(config)])

    kernel = made({"class_path": path + "Gaussian", "init_args": {"bandwidth": 2}})
    assert repr(kernel) == "Gaussian(bandwidth=2.0)"
    terms = [{"class_path": path + "RationalQuadratic", "init_args": {"alpha": 0.1}}]
    terms.append({"class_path": path + "Linear"})
    kernel = made(
        {"class_path": path + "Sum", "init_args": {"kernels": terms, "weights": [1.0, 0.1]}}
    )
    assert kernel.scaling_constant == pytest.approx(1.1)


def test_points_far_apart_cost_no_more_than_near_ones() -> None:
    """A processor takes 60 times as long for numbers below the normal ones."""
    for dtype in (torch.float32, torch.float64):
        far = torch.tensor([[0.0]], dtype=dtype), torch.tensor([[1e3], [1e6]], dtype=dtype)
        values = Gaussian(1.0)(*far)
        assert bool((values >= torch.finfo(dtype).tiny).all())
        assert bool((values < 1e-32).all())
