import random

import numpy as np
import pytest
import scipy.linalg
import torch

from lightning_igm.metrics.scores import image_scores


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(120, 5, generator=generator)
    mixing = torch.randn(5, 5, generator=generator)
    fake = torch.randn(90, 5, generator=generator) @ mixing + 0.3
    return real, fake


def slow_fid(real, fake):
    real, fake = real.double().numpy(), fake.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(real, rowvar=False) @ np.cov(fake, rowvar=False))
    difference = real.mean(0) - fake.mean(0)
    covariances = np.cov(real, rowvar=False) + np.cov(fake, rowvar=False)
    return difference @ difference + np.trace(covariances - 2 * root.real)


def slow_kid(real, fake, subset_size, subsets, seed):
    """The unbiased estimator by double loops, over the subsets that NumPy's seed stands for."""
    draw = np.random.RandomState(seed)
    scores = []
    for _ in range(subsets):
        y = fake[draw.choice(len(fake), subset_size, replace=False)].double().tolist()
        x = real[draw.choice(len(real), subset_size, replace=False)].double().tolist()

        def kernel(a, b):
            return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

        n = subset_size
        xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
        yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
        xy = sum(kernel(x[i], y[j]) for i in range(n) for j in range(n))
        scores.append((xx + yy) / (n * (n - 1)) - 2 * xy / n**2)
    return np.mean(scores), np.std(scores)


def test_fid_equals_the_formula(features):
    scores = image_scores(*features, kid_subset_size=10, kid_subsets=1)
    assert scores.fid == pytest.approx(slow_fid(*features), rel=1e-9)


def test_fid_of_known_gaussians():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    scaled = 3 * (real - real.mean(0)) + real.mean(0) + torch.tensor([1.0, 2.0, 0.0])
    expected = 5.0 + 4.0 * float(real.var(0).sum())
    scores = image_scores(real, scaled, kid_subset_size=2, kid_subsets=1)
    assert scores.fid == pytest.approx(expected, rel=1e-9)


def test_kid_equals_the_double_loop(features):
    scores = image_scores(*features, kid_subset_size=20, kid_subsets=3, seed=7)
    mean, std = slow_kid(*features, subset_size=20, subsets=3, seed=7)
    assert scores.kid == pytest.approx(mean, rel=1e-9)
    assert scores.kid_std == pytest.approx(std, rel=1e-9)


def test_scores_repeat_and_depend_on_the_seed(features):
    first = image_scores(*features, kid_subset_size=20, kid_subsets=3, seed=1)
    torch.rand(10)
    assert image_scores(*features, kid_subset_size=20, kid_subsets=3, seed=1) == first
    other = image_scores(*features, kid_subset_size=20, kid_subsets=3, seed=2)
    assert other.fid == first.fid
    assert other.kid != first.kid


def test_global_random_states_stay(features):
    states = random.getstate(), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    image_scores(*features, kid_subset_size=20, kid_subsets=2)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_equal_images_score_zero(features):
    real, _ = features
    scores = image_scores(real, real, kid_subset_size=len(real), kid_subsets=1)
    assert scores.fid == pytest.approx(0.0, abs=1e-9)
    # The unbiased estimator leaves out the diagonal of two of its three means.
    assert scores.kid < 0


@pytest.mark.parametrize(
    ("real", "fake", "settings", "message"),
    [
        ((5, 5), (90, 5), {}, r"FID with 5 features needs more than 5 real images, got 5"),
        ((90, 5), (4, 5), {}, r"FID with 5 features needs more than 5 generated images, got 4"),
        ((90, 5), (60, 5), {"kid_subset_size": 61}, r"kid_subset_size .* generated images \(60\)"),
        ((60, 5), (90, 5), {"kid_subset_size": 61}, r"kid_subset_size .* real images \(60\)"),
        ((90, 5), (90, 5), {"kid_subset_size": 1}, "kid_subset_size must be at least 2, got 1"),
        ((90, 5), (90, 5), {"kid_subsets": 0}, "kid_subsets must be at least 1, got 0"),
        ((90, 5), (90, 4), {}, r"\(M, D\) and \(N, D\), got \(90, 5\) and \(90, 4\)"),
    ],
)
def test_bad_input_is_named(real, fake, settings, message):
    with pytest.raises(ValueError, match=message):
        image_scores(torch.randn(real), torch.randn(fake), **{"kid_subset_size": 10} | settings)
