"""The theory of moment estimators: against closed forms, and against simulation."""

import pytest
import torch
from torch import nn

from lightning_igm.losses.moments import mean_moments
from lightning_igm.networks import MLPCritic
from lightning_igm.studies.asymptotic_variance import (
    CRAMER_RAO,
    TRUTH,
    LocationScale,
    MomentEstimator,
    asymptotic_variance,
    learn_moments,
    optimal_variance,
)


class Powers(nn.Module):
    """Moments x and x^2 of the first coordinate, and the second coordinate."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(3))

    def forward(self, points):
        first, second = points.unbind(-1)
        return torch.stack([first, first.square(), second], -1) @ self.weights


def critic(seed=0):
    torch.manual_seed(seed)
    return MLPCritic(hidden=(6,), activation="tanh")


def test_moments_are_those_of_the_method():
    network, points = critic(), torch.randn(7, 2)
    estimator = MomentEstimator(network)
    expected = mean_moments(network, points).detach().double()
    torch.testing.assert_close(estimator.mean_moments(points.double()), expected, atol=1e-6, rtol=0)
    each = estimator.moments(points.double())
    torch.testing.assert_close(each.mean(0), estimator.mean_moments(points.double()))


def test_expectations_are_those_of_many_points():
    estimator, theta = MomentEstimator(critic()), torch.tensor([0.3, -0.2], dtype=torch.float64)
    latents = torch.randn(200_000, 2, dtype=torch.float64)
    points = LocationScale(noise=3.0)(latents, theta)
    moments = estimator.moments(points)
    error = moments.std(0) / len(points) ** 0.5
    off = (estimator.expected_moments(theta) - moments.mean(0)) / error.clamp_min(1e-12)
    assert off[error > 1e-9].abs().max() < 4.5
    data = estimator.moments(LocationScale(noise=3.0)(latents, TRUTH))
    torch.testing.assert_close(estimator.covariance(), data.mT.cov(), atol=0.1, rtol=0.05)


def test_jacobian_is_the_slope_of_expectations():
    estimator, step = MomentEstimator(critic()), 1e-5
    for i, direction in enumerate(torch.eye(2, dtype=torch.float64)):
        ahead, behind = (
            estimator.expected_moments(TRUTH + sign * step * direction) for sign in (1, -1)
        )
        slope = (ahead - behind) / (2 * step)
        torch.testing.assert_close(estimator.jacobian()[:, i], slope, atol=1e-6, rtol=1e-5)


def test_sufficient_statistics_reach_the_bound():
    estimator = MomentEstimator(Powers())
    torch.testing.assert_close(estimator.best(), CRAMER_RAO)
    torch.testing.assert_close(MomentEstimator(Powers(), keep=[0, 1]).predicted(), CRAMER_RAO)


def test_no_weighting_beats_the_best_and_none_the_bound():
    for seed in range(3):
        estimator = MomentEstimator(critic(seed))
        assert (estimator.best() <= estimator.predicted() * (1 + 1e-9)).all()
        assert (estimator.best() >= CRAMER_RAO * 0.995).all()


def test_theorem_1_is_appendix_b_with_as_many_moments_as_parameters():
    two = MomentEstimator(critic(), keep=[6, 17])
    jacobian, covariance = two.jacobian(), two.covariance()
    inverse = torch.linalg.inv(jacobian)
    torch.testing.assert_close(
        asymptotic_variance(jacobian, covariance), inverse @ covariance @ inverse.mT
    )
    best = optimal_variance(jacobian, covariance, tolerance=0)
    torch.testing.assert_close(best, inverse @ covariance @ inverse.mT)


def test_estimates_are_stationary_points_of_the_loss():
    estimator = MomentEstimator(critic())
    data = LocationScale(noise=3.0)(torch.randn(3, 500, 2, dtype=torch.float64), TRUTH)
    for theta, points in zip(estimator.estimates(data), data, strict=True):
        theta = theta.clone().requires_grad_()
        miss = estimator.expected_moments(theta) - estimator.mean_moments(points)
        (slope,) = torch.autograd.grad(miss.square().sum(), theta)
        assert slope.abs().max() < 1e-7


@pytest.mark.parametrize("fakes", [None, 2])
def test_simulation_agrees_with_theory(fakes):
    estimator = MomentEstimator(Powers(), keep=[0, 1])
    theory = estimator.predicted() * (1 if fakes is None else 1 + 1 / fakes)
    found, error = estimator.simulated(1000, 300, fakes, seed=2)
    assert ((found - theory) / error).abs().max() < 3
    # Or it would agree with anything.
    assert (error / theory).max() < 0.15


def test_simulation_repeats():
    estimator = MomentEstimator(Powers(), keep=[0, 1])
    first, second, other = (estimator.simulated(50, 5, seed=s)[0] for s in (0, 0, 1))
    assert first.equal(second)
    assert not first.equal(other)


def test_learning_repeats_and_moves_the_moments():
    before = MomentEstimator(critic(3)).predicted()
    networks = [critic(3), critic(3)]
    for network in networks:
        learn_moments(network, LocationScale(1.0, 0.5), steps=60, seed=1)
    first, second = (MomentEstimator(network).predicted() for network in networks)
    assert first.equal(second)
    # This critic's random moments hardly see b.
    assert first[1] < before[1] / 10


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="noise: 0 is not allowed"):
        MomentEstimator(critic(), noise=0)
    with pytest.raises(ValueError, match="replicates: 0 is not allowed"):
        MomentEstimator(critic()).simulated(10, 0)
    with pytest.raises(ValueError, match="fakes_per_point: 0 is not allowed"):
        MomentEstimator(critic()).simulated(10, 2, fakes_per_point=0)
    with pytest.raises(ValueError, match="jacobian: rank 1 is not allowed for 2 parameters"):
        MomentEstimator(critic(), keep=[0]).predicted()
