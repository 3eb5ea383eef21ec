"""The standard error of FID is the spread over fresh samples."""

import pytest
import torch

from lightning_igm.metrics import frechet_distance, frechet_error
from lightning_igm.metrics.frechet import moments


@pytest.mark.parametrize(("count", "shift"), [(1000, 0.3), (200, 0.5)])
def test_the_error_is_the_spread_over_fresh_samples(count, shift):
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=draw, dtype=torch.float64)
    real = torch.randn(3000, 8, generator=draw, dtype=torch.float64) @ mix
    known = moments(real)
    outcomes = []
    for _ in range(120):
        fake = torch.randn(count, 8, generator=draw, dtype=torch.float64) @ mix + shift
        outcomes.append(torch.stack(frechet_error(*known, *moments(fake), fake.float())))
    distances, errors = torch.stack(outcomes).unbind(1)
    assert float(errors.mean() / distances.std()) == pytest.approx(1.0, abs=0.25)


def test_the_distance_is_the_same_and_chunks_do_not_matter(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.randn(50, 4, generator=draw), 2 * torch.randn(60, 4, generator=draw)
    arguments = *moments(real), *moments(fake)
    distance, error = frechet_error(*arguments, fake)
    # Eigenvalues with and without their vectors are two algorithms, with roundings of their own.
    assert float(distance) == pytest.approx(float(frechet_distance(*arguments)), rel=1e-10)
    monkeypatch.setattr("lightning_igm.metrics.frechet._CHUNK", 7)
    assert float(frechet_error(*arguments, fake)[1]) == pytest.approx(float(error), rel=1e-9)


def test_samples_of_another_shape_are_named():
    mean, cov = torch.zeros(3), torch.eye(3)
    for shape in ((5, 4), (1, 3)):
        with pytest.raises(ValueError, match="samples2: shape"):
            frechet_error(mean, cov, mean, cov, torch.zeros(shape))
