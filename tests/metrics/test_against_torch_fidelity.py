"""Scores equal torch-fidelity's: on features, and of the whole way from images."""

import warnings

import pytest
import random_inception
import torch
from torchmetrics import MetricCollection

from lightning_igm.evaluation.settings import ScoreSettings
from lightning_igm.metrics import (
    InceptionV3,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lightning_igm.metrics.extractors import extract
from lightning_igm.metrics.frechet import moments


@pytest.fixture(scope="module")
def fidelity():
    with warnings.catch_warnings():
        import torch_fidelity
        import torch_fidelity.metric_fid
        import torch_fidelity.metric_isc
        import torch_fidelity.metric_kid
        import torch_fidelity.metric_prc

        yield torch_fidelity


@pytest.fixture(scope="module")
def features():
    draw = torch.Generator().manual_seed(0)
    real = torch.randn(250, 12, generator=draw).exp()
    return real, torch.randn(230, 12, generator=draw).mul(1.2).exp()


@pytest.mark.parametrize(("splits", "seed"), [(1, 0), (7, 3), (10, 2020)])
def test_inception_score(fidelity, features, splits, seed):
    logits = features[0].log()
    expected = fidelity.metric_isc.isc_features_to_metric(logits, splits, rng_seed=seed)
    mean, std = inception_score(logits, splits=splits, seed=seed)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert std == pytest.approx(expected["inception_score_std"], rel=1e-9, abs=1e-12)


# With few subsets, kernels are of each subset; with many, of all pairs.
@pytest.mark.parametrize(("size", "subsets", "seed"), [(20, 9, 0), (230, 2, 5), (100, 30, 2020)])
def test_kernel_distance(fidelity, features, size, subsets, seed):
    real, fake = features
    expected = fidelity.metric_kid.kid_features_to_metric(
        fake.double(),
        real.double(),
        kid_subset_size=size,
        kid_subsets=subsets,
        rng_seed=seed,
        verbose=False,
    )
    mean, std = kernel_distance(real, fake, subset_size=size, subsets=subsets, seed=seed)
    assert mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_frechet_distance(fidelity, features):
    statistics = [fidelity.metric_fid.fid_features_to_statistics(f.double()) for f in features]
    expected = fidelity.metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    value = frechet_distance(*moments(features[0]), *moments(features[1]))
    assert float(value) == pytest.approx(expected["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize("neighbors", [1, 3])
def test_precision_and_recall(fidelity, features, neighbors):
    real, fake = features
    fake = 0.7 * fake
    expected = fidelity.metric_prc.prc_features_to_metric(
        fake.double(), real.double(), prc_neighborhood=neighbors, verbose=False
    )
    precision, recall = precision_recall(real, fake, neighbors=neighbors)
    assert 0.05 < precision != recall < 0.95
    assert precision == pytest.approx(expected["precision"], abs=1e-7)
    assert recall == pytest.approx(expected["recall"], abs=1e-7)


class Tensors(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def smooth_images(count, contrast, seed):
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return (255 * (contrast * (images - 0.5) + 0.5)).byte()


def compare(fidelity, weights, count, scores, settings):
    """Our scores and torch-fidelity's of the same images by the same network."""
    images = smooth_images(count + 10, 1.0, 0), smooth_images(count, 0.8, 1)
    extractor, metrics = InceptionV3(weights, sha256=None), MetricCollection(settings.make(scores))
    for part, real in zip(images, (True, False), strict=True):
        for batch in part.split(50):
            with torch.no_grad():
                features, logits = extract(extractor, batch)
            metrics.update(features=features, logits=logits, real=real)
    ours = {name: float(value) for name, value in metrics.compute().items()}
    theirs = fidelity.calculate_metrics(
        input1=Tensors(images[1]),
        input2=Tensors(images[0]),
        cuda=False,
        batch_size=50,
        isc=True,
        kid=True,
        fid="fid" in scores,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        isc_splits=settings.is_splits,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.kid_subset_size,
        rng_seed=settings.seed,
        cache=False,
        verbose=False,
    )
    return ours, theirs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_inception.write(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture
def small_inputs(fidelity, monkeypatch):
    """Both ways resize to 75 pixels, Inception's smallest input, in place of 299."""
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)


@pytest.mark.filterwarnings("ignore")
def test_all_the_way_from_a_few_images(fidelity, weights, small_inputs):
    settings = ScoreSettings(kid_subset_size=20, kid_subsets=5, is_splits=2, seed=4)
    ours, theirs = compare(fidelity, weights, 30, ["is", "kid"], settings)
    assert ours["inception_score"] > 1.01
    for name, other in (
        ("inception_score", "inception_score"),
        ("kid", "kernel_inception_distance"),
    ):
        assert ours[name] == pytest.approx(theirs[f"{other}_mean"], rel=1e-3)
        # The reference's is in float32: a small difference of nearly equal numbers.
        assert ours[f"{name}_std"] == pytest.approx(theirs[f"{other}_std"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_the_way_from_2100_images(fidelity, weights, small_inputs):
    settings = ScoreSettings(kid_subset_size=1000, kid_subsets=20, is_splits=10, seed=2020)
    ours, theirs = compare(fidelity, weights, 2100, ["is", "fid", "kid"], settings)
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


def test_certain_logits_have_a_finite_score():
    logits = 2000 * torch.eye(10)[torch.arange(5).repeat(50)]
    assert inception_score(logits, splits=2)[0] == pytest.approx(5, rel=1e-2)
