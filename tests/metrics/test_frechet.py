"""The Fréchet distance against closed forms and against torch-fidelity's."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_statistics_to_metric

from lightning_igm.metrics import frechet_distance
from lightning_igm.metrics.frechet import moments


def gaussian(d: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Moments of n points; of rank n - 1 if that is less than d."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.randn(n, d, generator=draw, dtype=torch.float64)
    return moments(points @ torch.randn(d, d, generator=draw, dtype=torch.float64) + seed)


def test_axis_parallel_gaussians() -> None:
    """sum (m1 - m2)^2 + sum (s1 - s2)^2."""
    s1, s2 = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 5.0])
    mean = torch.tensor([1.0, -2.0, 0.5])
    value = frechet_distance(mean, s1.square().diag(), -mean, s2.square().diag())
    expected = (2 * mean).double().square().sum() + (s1 - s2).double().square().sum()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_correlated_gaussians_of_two_dimensions() -> None:
    """tr (S1 S2)^(1/2) of 2x2 matrices is the root of tr(S1 S2) + 2 det(S1 S2)^(1/2)."""
    s1 = torch.tensor([[2.0, 1.2], [1.2, 3.0]], dtype=torch.float64)
    s2 = torch.tensor([[5.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    product = s1 @ s2
    overlap = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = s1.trace() + s2.trace() - 2 * overlap
    torch.testing.assert_close(frechet_distance(zero, s1, zero, s2), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("points", [400, 40])
def test_equals_torch_fidelity_also_for_singular_covariances(points: int) -> None:
    first, second = gaussian(64, points, 0), gaussian(64, points, 1)
    statistics = [{"mu": m.numpy(), "sigma": c.numpy()} for m, c in (first, second)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert float(frechet_distance(*first, *second)) == pytest.approx(expected, rel=1e-4)


def test_is_symmetric_and_zero_for_equal_gaussians() -> None:
    first, second = gaussian(16, 100, 0), gaussian(16, 100, 1)
    forth, back = frechet_distance(*first, *second), frechet_distance(*second, *first)
    torch.testing.assert_close(forth, back, rtol=1e-10, atol=0)
    first = gaussian(16, 10, 0)  # Rounded zeros among its eigenvalues; their roots are not small.
    assert frechet_distance(*first, *first) < 1e-6 * first[1].trace()
    assert frechet_distance(*first, *first) >= 0


def test_float32_moments_are_taken_up_in_float64() -> None:
    first, second = gaussian(16, 100, 0), gaussian(16, 100, 1)
    value = frechet_distance(*[t.float() for t in (*first, *second)])
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, frechet_distance(*first, *second), rtol=1e-5, atol=0)


def test_moments_are_numpy_s() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) + 1000
    mean, cov = moments(torch.from_numpy(points))
    np.testing.assert_allclose(mean, points.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(points.astype(np.float64), rowvar=False), rtol=1e-9)
    assert moments(torch.rand(5, 1))[1].shape == (1, 1)


def test_bad_input() -> None:
    mean, cov = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match=r"^mean1, cov1, mean2, cov2: shapes \[\(2,\), \(3, 3\)"):
        frechet_distance(mean, torch.eye(3), mean, cov)
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(mean[None], cov, mean, cov)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(mean, cov, mean, cov * float("nan"))
    skew = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    opposed = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    for first, second in ((skew, cov), (cov, skew)):
        with pytest.raises(ValueError, match=r"^cov[12]: a matrix that is not symmetric"):
            frechet_distance(mean, first, mean, second)
    for first, second in ((opposed, cov), (cov, opposed)):
        with pytest.raises(ValueError, match=r"^cov[12]: a matrix that is not positive semid"):
            frechet_distance(mean, first, mean, second)
    with pytest.raises(ValueError, match=r"^cov1: a negative variance"):
        frechet_distance(mean, -cov, mean, cov)
    with pytest.raises(ValueError, match="2 or more rows"):
        moments(torch.rand(1, 3))


def test_rounding_of_constant_features_is_none_of_the_callers() -> None:
    mean, cov = torch.full((3,), 7.0), torch.diag(torch.tensor([-1e-15, 0.0, 1e-15]))
    cov[0, 1] = 1e-15
    assert frechet_distance(mean, cov, mean, torch.eye(3)).item() == pytest.approx(3, abs=1e-6)
    assert frechet_distance(mean, torch.eye(3), mean, cov).item() == pytest.approx(3, abs=1e-6)
