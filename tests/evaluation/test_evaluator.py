"""One pass: moments of all, evenly spaced rows of some, by name."""

import itertools

import pytest
import torch
from torchmetrics import MetricCollection

from lightning_igm.evaluation import Evaluator, RealImages
from lightning_igm.evaluation.settings import ScoreSettings, known_scores
from lightning_igm.metrics import (
    FrechetDistance,
    KernelDistance,
    MultiScaleSSIM,
    PrecisionRecall,
    ssim,
)
from lightning_igm.metrics.frechet import moments
from lightning_igm.metrics.score import score_classes


def feed(metric, values, size, real=True):
    """All rows, with their positions and their number."""
    for rows in torch.arange(len(values)).split(size):
        metric.update(values[rows], real=real, index=rows, total=len(values))
    return metric


@pytest.mark.parametrize("size", [1, 7, 23])
def test_all_rows_and_moments(size):
    features = torch.randn(23, 4) + 5
    rows = feed(KernelDistance(2), features, size).rows("real_features")
    assert torch.equal(rows, features)
    mean, cov = moments(features)
    made = feed(FrechetDistance(), features, size)._moments("real")
    torch.testing.assert_close(made[0], mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(made[1], cov, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize("most", [1, 3, 7, 9, 10, 11])
def test_rows_beyond_the_limit_are_left_out_evenly(monkeypatch, size, most):
    monkeypatch.setattr(FrechetDistance, "max_rows", most)
    features = torch.arange(10.0)[:, None]
    metric = feed(FrechetDistance(), features, size, real=False)
    kept = metric.rows("fake_features")[:, 0].tolist()
    assert len(kept) == metric.count("fake_features") == min(most, 10)
    gaps = {int(b - a) for a, b in itertools.pairwise(kept)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert float(metric._moments("fake")[0]) == 4.5


def test_images_are_limited_by_their_bytes(monkeypatch):
    monkeypatch.setattr(ssim, "_MOST_BYTES", 5 * 3 * 16 * 16)
    images = torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
    assert feed(MultiScaleSSIM(), images, 6).count("real_images") == 5


class Counting(torch.nn.Module):
    calls = 0

    def forward(self, images):
        self.calls += 1
        flat = images.flatten(1).float()
        return flat[:, :3], flat[:, 3:7], "more"


class Pictures(torch.utils.data.Dataset):
    """Noise as a data module of images, as little of one as there can be."""

    value_range = (0.0, 1.0)

    def __init__(self, count=30):
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (count, 3, 28, 28), generator=draw, dtype=torch.uint8)
        self.passes = 0

    def ordered_train_dataloader(self):
        self.passes += 1
        return torch.utils.data.DataLoader(self.images, batch_size=7)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch.to(device)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch.float() / 255


def samples(count=30, size=8):
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 28, 28, generator=draw)
    return [(start, images[start : start + size]) for start in range(0, count, size)]


def evaluator_of(extractor, names, **settings):
    metrics = MetricCollection(ScoreSettings(10, 3, 2, 20).make(names))
    return Evaluator(extractor, metrics, **settings)


def real(data):
    return RealImages(data, "train", torch.device("cpu"))


def test_one_pass_makes_all_rows():
    extractor, data = Counting(), Pictures()
    evaluator = evaluator_of(extractor, known_scores())
    for _ in range(2):
        evaluator.take_real(real(data))
        scores = evaluator.score(samples(), 30, data.value_range)
    assert extractor.calls == 5 + 2 * 4
    assert data.passes == 1
    assert list(scores) == [n for name in known_scores() for n in score_classes()[name].names()]
    assert all(value == value for value in scores.values())
    assert evaluator.real_count == 30


def test_scores_of_images_alone_need_no_extractor():
    extractor = Counting()
    evaluator = evaluator_of(extractor, ["ms_ssim"])
    evaluator.take_real(real(Pictures()))
    assert evaluator.score(samples(), 30, (0.0, 1.0)).keys() >= {"ms_ssim"}
    assert extractor.calls == 0


def test_what_scores_need_is_kept_once(tmp_path):
    evaluator = evaluator_of(Counting(), ["fid", "kid", "precision_recall"], cache=tmp_path)
    evaluator.take_real(real(Pictures()))
    [file] = tmp_path.glob("*.pt")
    tensors = torch.load(file, weights_only=True)["tensors"]
    assert sorted(tensors) == [
        *("real_count", "real_features", "real_features_index", "real_outer", "real_sum")
    ]
    other = Counting()
    again = evaluator_of(other, ["fid", "kid", "precision_recall"], cache=tmp_path)
    again.take_real(real(Pictures()))
    assert other.calls == 0
    scores = [e.score(samples(), 30, (0.0, 1.0)) for e in (evaluator, again)]
    assert scores[0] == scores[1]


def test_any_metric_collection_will_do():
    scores = []
    for groups in (True, False):
        kinds = [
            FrechetDistance(reset_real_features=False),
            KernelDistance(10, 3),
            PrecisionRecall(sync_on_compute=False),
        ]
        evaluator = Evaluator(Counting(), MetricCollection(kinds, compute_groups=groups))
        evaluator.take_real(real(Pictures(25)))
        evaluator.take_real(real(Pictures()))
        scores += [evaluator.score(samples(), 30, (0.0, 1.0)) for _ in range(2)]
    assert scores[0] == scores[1] == scores[2] == scores[3]


def test_an_extractor_without_logits_is_named():
    evaluator = evaluator_of(torch.nn.Flatten(), ["is"])
    with pytest.raises(ValueError, match=r"scores: 'is' is not allowed .* Flatten, which gives no"):
        evaluator.score([(0, torch.zeros(1, 3, 4, 4))], 1, (0.0, 1.0))


def test_a_pass_that_fails_leaves_nothing():
    evaluator = evaluator_of(Counting(), ["fid", "kid", "ms_ssim"])
    evaluator.take_real(real(Pictures()))
    expected = evaluator.score(samples(), 30, (0.0, 1.0))

    def broken():
        yield from samples()[:2]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        evaluator.score(broken(), 30, (0.0, 1.0))
    assert evaluator.score(samples(), 30, (0.0, 1.0)) == expected
    with pytest.raises(ValueError, match=r"FID with 3 features needs .* generated images, got 3"):
        evaluator.score(samples(3), 3, (0.0, 1.0))
    assert evaluator.score(samples(), 30, (0.0, 1.0)) == expected
