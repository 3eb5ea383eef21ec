"""Scores by one pass against torchmetrics as its documentation shows it, and their memory."""

import sys
from pathlib import Path

import pytest
import torch
from timing import interleaved, median_ratio, peak_memory, report
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_igm.evaluation.settings import ScoreSettings
from lightning_igm.metrics import InceptionV3, frechet_distance
from lightning_igm.metrics.extractors import extract
from lightning_igm.metrics.frechet import moments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
]

COUNT, BATCH = 2100, 16


def covariances(count=4200, size=2048):
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(size, size, generator=draw) / size**0.5
    samples = [torch.randn(count, size, generator=draw) @ mix for _ in range(2)]
    return [*moments(samples[0]), *moments(1.1 * samples[1] + 0.1)]


def test_frechet_distance_is_faster_than_torchmetrics(record_property):
    arguments = covariances()
    values = {}
    functions = {
        "ours": lambda: values.update(ours=frechet_distance(*arguments)),
        "torchmetrics": lambda: values.update(theirs=_compute_fid(*arguments)),
    }
    rounds = interleaved(functions, 1, processor_time=True)
    assert float(values["ours"]) == pytest.approx(float(values["theirs"]), rel=1e-4)
    ratio = median_ratio(rounds, lambda s: s["torchmetrics"] / s["ours"])
    name = "frechet_distance at 2048: torchmetrics / ours"
    report(record_property, name, ratio, at_least=8)


class Features(nn.Identity):
    num_features = 2048


def torchmetrics_scores(real, fake, logits):
    """What torchmetrics computes from features that its three Inceptions have made."""
    fid, kid = FrechetInceptionDistance(Features()), KernelInceptionDistance(Features())
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(fake, real=False)
        metric.compute()
    score = InceptionScore(nn.Identity())
    score.update(logits)
    score.compute()


def our_scores(real, fake, logits):
    settings = ScoreSettings(kid_subset_size=1000, kid_subsets=100)
    metrics = MetricCollection(settings.make(["is", "fid", "kid"]))
    metrics.update(features=real, logits=logits, real=True)
    metrics.update(features=fake, logits=logits, real=False)
    metrics.compute()


def test_one_pass_for_all_is_faster_than_torchmetrics_three_inceptions(record_property, tmp_path):
    """For 2,100 images, put together from passes over a few and the computation from features.

    As documented, each torchmetrics class has an Inception of its own: real and generated images go
    through those of FID and KID, generated ones through that of the Inception Score. Ours has one,
    and an evaluation in training finds the statistics of the real images made.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "metrics"))
    import random_inception

    extractor = InceptionV3(random_inception.write(tmp_path / "weights.pth"), sha256=None)
    images = torch.randint(256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, COUNT, 2048, generator=draw).abs()
    logits = fake[:, :1008]
    extractor.prepare()
    network = extractor.network
    with torch.no_grad():
        functions = {
            "our pass": lambda: extract(extractor, images),
            "their pass": lambda: network(images),
            "our scores": lambda: our_scores(real, fake, logits),
            "their scores": lambda: torchmetrics_scores(real, fake, logits),
        }
        rounds = interleaved(functions, 1, processor_time=True)

    def ratio(passes):
        def of(s):
            theirs = 5 * COUNT / BATCH * s["their pass"] + s["their scores"]
            return theirs / (passes * COUNT / BATCH * s["our pass"] + s["our scores"])

        return median_ratio(rounds, of)

    name = "FID, KID, IS of 2,100 images: torchmetrics / "
    report(record_property, f"{name}ours, first time", ratio(2), at_least=2.3)
    report(record_property, f"{name}ours", ratio(1), at_least=2.5)


def test_memory_of_an_evaluation_with_50_000_samples(record_property, tmp_path):
    """Beyond the extractor, the first time and from the file of real statistics."""
    for when in ("first time", "from the file"):
        peak = peak_memory("score_memory", str(tmp_path))
        name = f"50,000 samples of 2048 features, {when}: GB"
        report(record_property, name, peak / 1e9, at_most=1.5)
