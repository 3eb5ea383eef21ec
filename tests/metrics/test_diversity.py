"""Mean MS-SSIM over pairs: which pairs, and how sure the mean is."""

import pytest
import torch

from lightning_igm.metrics import diversity, mean_similarity
from lightning_igm.metrics.ms_ssim import ms_ssim


def noise(count, size=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 2, 2, generator=draw)
    return (255 * torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")).byte()


@pytest.mark.parametrize(("count", "pairs"), [(5, 30), (21, 10), (100, 50), (100, 77)])
def test_pairs_are_of_distinct_images_used_evenly(count, pairs):
    first, second = diversity._pairs(count, pairs, seed=3)
    assert len(first) == len(second) == pairs
    assert (first != second).all()
    used = torch.bincount(torch.cat([first, second]), minlength=count)
    rounds = -(-pairs // (count // 2))
    assert used.max() <= rounds


def test_the_mean_is_that_of_the_pairs():
    images = noise(12)
    mean, _ = mean_similarity(images, pairs=40, seed=1)
    first, second = diversity._pairs(12, 40, seed=1)
    pairs = zip(images[first], images[second], strict=True)
    slow = [float(ms_ssim(a[None], b[None], data_range=255)) for a, b in pairs]
    assert mean == pytest.approx(sum(slow) / 40, rel=1e-5)


def test_the_error_of_disjoint_pairs_is_that_of_a_mean():
    images = noise(80)
    _, error = mean_similarity(images, pairs=40)
    first, second = diversity._pairs(80, 40, seed=0)
    values = ms_ssim(images[first], images[second], data_range=255).double()
    assert error == pytest.approx(float(values.std(correction=0)) / 40**0.5, rel=1e-6)


@pytest.mark.parametrize("count", [16, 200])
def test_the_error_is_the_spread_over_fresh_images(count):
    """With 16 images for 120 pairs, pairs are far from independent."""
    outcomes = [mean_similarity(noise(count, seed=s), pairs=120, seed=s) for s in range(60)]
    means, errors = torch.tensor(outcomes).unbind(1)
    assert float(errors.mean() / means.std()) == pytest.approx(1.0, abs=0.25)


def test_repeated_images_are_alike_and_a_seed_repeats():
    images = noise(1).expand(10, -1, -1, -1)
    assert mean_similarity(images, pairs=20) == pytest.approx((1.0, 0.0), abs=1e-6)
    images = noise(50)
    assert mean_similarity(images, pairs=30, seed=1) == mean_similarity(images, pairs=30, seed=1)
    assert mean_similarity(images, pairs=30, seed=1) != mean_similarity(images, pairs=30, seed=2)


@pytest.mark.parametrize(
    ("images", "pairs", "message"),
    [
        (noise(1), 10, r"images: torch.uint8 \(1, 1, 16, 16\) .* two or more"),
        (noise(4).float(), 10, "images: torch.float32"),
        (noise(4), 0, "pairs: 0 is not allowed"),
        (noise(4)[..., :0], 10, r"a, b: shapes \(10, 1, 16, 0\) .* must be one \(N, C, H, W\)"),
    ],
)
def test_bad_images_are_named(images, pairs, message):
    with pytest.raises(ValueError, match=message):
        mean_similarity(images, pairs=pairs)
