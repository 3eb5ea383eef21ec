"""Losses of moments: golden values, the same by loops or by a matrix root, bad inputs."""

import pytest
import torch
from golden_samples import X, Y, grid, rows
from kernel_oracles import noise

from lightning_igm.losses.feature_matching import (
    FeatureMoments,
    batch_moments,
    frechet_loss,
    mean_and_variance_loss,
)

DIGITS = 5.1e-9
Y2 = grid(5, 3, lambda t: torch.cos(1 + 0.4 * t + t**2 / 8))


def test_golden_mean_and_variance_loss():
    x = X.clone().requires_grad_()
    loss = mean_and_variance_loss(x, Y.mean(0), Y.var(0))
    assert loss.item() == pytest.approx(0.61786161, abs=DIGITS)
    (slope,) = torch.autograd.grad(loss, x)
    expected = rows(
        "-.07057343 -.05090472 -.13111483; -.04512088 -.00189676 -.07264576;"
        ".02872495 .02059871 -.24108244"
    )
    assert (slope[[0, 3, 5]] - expected).abs().max() < DIGITS


def test_golden_frechet_loss():
    x = X.clone().requires_grad_()
    loss = frechet_loss(x, Y2.mean(0), Y2.mT.cov())
    assert loss.item() == pytest.approx(1.47578348, abs=DIGITS)
    (slope,) = torch.autograd.grad(loss, x)
    expected = rows(
        ".16338535 .37307800 -.23059641; .03574056 .20329193 -.19617505; .06426261 .13394253"
        " -.16403176; .06031969 .18107800 -.28777963; .12709259 .25540131 -.24628211;"
        "-.13432615 .29319390 -.54814225"
    )
    assert (slope - expected).abs().max() < DIGITS


def frechet_by_singular_values(x, mean, covariance):
    """tr (R C R)^(1/2) is the sum of the singular values of X R, X the centred rows."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    root = torch.linalg.cholesky(covariance)
    cross = torch.linalg.svdvals(centred @ root).sum()
    return (
        (x.mean(0) - mean).square().sum() + centred.square().sum() + covariance.trace() - 2 * cross
    )


def test_frechet_loss_is_that_of_singular_values():
    x, y = noise(9, 4).requires_grad_(), 0.5 * noise(30, 4, seed=2) + 1
    moments = y.mean(0), y.mT.cov()
    losses = frechet_loss(x, *moments), frechet_by_singular_values(x, *moments)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)
    slopes = [torch.autograd.grad(loss, x)[0] for loss in losses]
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-9)


def test_frechet_loss_of_equal_moments_is_zero():
    y = noise(30, 3)
    x = y.clone().requires_grad_()
    loss = frechet_loss(x, y.mean(0), y.mT.cov())
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert torch.autograd.grad(loss, x)[0].abs().max() < 1e-8


def test_moments_in_batches_are_those_of_all():
    y = noise(11, 3)
    for covariance in (False, True):
        moments = FeatureMoments(covariance)
        for part in y.split(4):
            moments.update(part.float())
        mean, second = moments.compute()
        assert mean.dtype == torch.float64
        expected = y.float().double()
        torch.testing.assert_close(mean, expected.mean(0))
        torch.testing.assert_close(second, expected.mT.cov() if covariance else expected.var(0))


def test_moments_of_a_batch_are_about_a_centre():
    x = noise(7, 3) + 1e4
    centre = torch.full((3,), 1e4, dtype=torch.float64)
    mean, variance = batch_moments(x.float(), centre)
    assert (mean - (x.float().double() - centre).mean(0)).abs().max() < 1e-5
    assert (variance - x.float().double().var(0)).abs().max() < 1e-5


def test_bad_inputs_are_named():
    x, one, three = torch.ones(3, 2), torch.ones(2), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"^fake: a batch of 1 is not allowed; it must have 2 or"):
        mean_and_variance_loss(x[:1], one, one)
    with pytest.raises(ValueError, match=r"^mean: shape \(3,\) is not allowed; it must be \(2,\)"):
        mean_and_variance_loss(x, torch.ones(3), one)
    with pytest.raises(ValueError, match=r"^variance: shape \(2, 2\) is not allowed"):
        mean_and_variance_loss(x, one, three)
    with pytest.raises(ValueError, match=r"^covariance: shape \(2,\) is not allowed"):
        frechet_loss(x, one, one)
    with pytest.raises(ValueError, match=r"^fake: a batch of 2 is not allowed with 2 features"):
        frechet_loss(x[:2], one, three)
    with pytest.raises(ValueError, match=r"^data: the training set is empty"):
        FeatureMoments().compute()
