"""Scores are against the law that is trained on: a perfect generator of it is near zero."""

import json

import torch
from augmented import CutImages, LawGAN
from tiny_gan import TinyExtractor, tiny_trainer
from torch import nn

from lightning_igm.callbacks.image_metrics import ImageMetrics
from lightning_igm.metrics.frechet import frechet_distance


class Corners(nn.Module):
    """Four features: brightness of the corners, which cuts and flips move."""

    num_features = 4

    def forward(self, images):
        return images.double().mean(1)[:, ::3, ::3].flatten(1) / 255


def validated(folder, gan, data=None, **settings):
    metrics = ImageMetrics(
        None, 2000, Corners(), kid_subset_size=100, kid_subsets=2, scores=["fid"], **settings
    )
    trainer = tiny_trainer(folder, metrics, limit_val_batches=1)
    [scores] = trainer.validate(gan, datamodule=data or CutImages(), verbose=False)
    return scores["fid"], metrics


def features(data):
    batches = [data.on_after_batch_transfer(b, 0) for b in data.ordered_train_dataloader()]
    return Corners()((255 * torch.cat(batches)).round().byte())


def distance_of_halves():
    """Mean Frechet distance of halves of the law, to scores' as a half is to the whole."""
    sets = []
    for seed in range(1, 7):
        data = CutImages(seed=seed)
        data.setup()
        sets.append(features(data))
    moments = [(points.mean(0), points.T.cov()) for points in sets]
    pairs = zip(moments[::2], moments[1::2], strict=True)
    return sum(float(frechet_distance(*one, *other)) for one, other in pairs) / 3


def test_a_perfect_generator_is_as_near_as_halves_of_the_law(tmp_path):
    perfect, _ = validated(tmp_path, LawGAN())
    halves = distance_of_halves()
    assert perfect < 20 * halves
    plain, _ = validated(tmp_path, LawGAN(augmented=False))
    assert plain > 50 * halves


def test_test_images_are_not_augmented(tmp_path):
    fid, metrics = validated(tmp_path, LawGAN(augmented=False), split="test")
    assert fid < 20 * distance_of_halves()
    assert "augmented" not in metrics.protocol


def test_scores_json_and_the_table_say_so(tmp_path, capsys):
    _, metrics = validated(tmp_path, LawGAN())
    [entry] = json.loads((tmp_path / "scores.json").read_text())
    assert entry["protocol"]["augmented"] is True
    assert "2,000 augmented training images" in metrics.table()


class Plain(CutImages):
    random_numbers = 0


def test_kept_statistics_are_those_of_a_seed_and_of_the_augmentation(tmp_path):
    def files(data):
        validated(tmp_path, LawGAN(), data)
        return {path.name: path.read_bytes() for path in tmp_path.glob("scores/*.pt")}

    plain = files(Plain(root=tmp_path))
    first = files(CutImages(root=tmp_path))
    assert len(plain) == 1
    assert len(first) == 2
    assert first.items() >= plain.items()
    assert files(CutImages(root=tmp_path, batch_size=7)) == first
    assert len(files(CutImages(root=tmp_path, seed=1))) == 3


def test_training_does_not_notice(tmp_path):
    """Order, augmentation and random states are those of a run without scores."""
    seen = []

    class Recorded(CutImages):
        def transform(self, images, numbers):
            if numbers is not None and not self.scoring:
                seen[-1].append((images.clone(), numbers))
            return super().transform(images, numbers)

        scoring = False

    class Scores(ImageMetrics):
        def evaluate(self, trainer, pl_module, num_samples=None):
            trainer.datamodule.scoring = True
            scores = super().evaluate(trainer, pl_module, num_samples)
            trainer.datamodule.scoring = False
            return scores

    scores = Scores(2, 100, TinyExtractor(), scores=["fid"], kid_subset_size=10)
    states = []
    for callbacks in ([scores], []):
        seen.append([])
        torch.manual_seed(0)
        model = LawGAN()
        tiny_trainer(tmp_path, *callbacks).fit(model, datamodule=Recorded(100, batch_size=8))
        states.append((model.state_dict(), torch.rand(3)))
    assert len(scores.history) == 3
    assert len(seen[0]) == len(seen[1]) == 6
    for one, other in zip(*seen, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert torch.equal(states[0][1], states[1][1])
    assert all(torch.equal(value, states[1][0][name]) for name, value in states[0][0].items())
