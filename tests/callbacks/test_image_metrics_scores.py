"""All scores by one pass, from the right images and weights, with real statistics on disk."""

import logging

import pytest
import torch
from tiny_gan import TinyExtractor, TinyGAN, TinyImages, fitted_state, tiny_trainer
from torch import nn
from torch._dynamo.utils import counters

from lightning_igm.callbacks.ema import GeneratorEMA
from lightning_igm.callbacks.image_metrics import ImageMetrics
from lightning_igm.evaluation.settings import known_scores
from lightning_igm.metrics import inception_score, mean_similarity, mode_coverage, precision_recall
from lightning_igm.metrics.score import score_classes

SCORES = known_scores()


def columns(names):
    return [column for name in names for column in score_classes()[name].names()]


class Images(TinyImages):
    """Sixteen pixels wide, with a root, a test split and settings."""

    name = "mnist"

    def __init__(self, num_images=40, root=None, size=16, batch_size=8):
        super().__init__(num_images)
        self.images = self.images.repeat(1, 1, size // 4, size // 4)
        self.root, self.size, self.batch_size = root, size, batch_size

    def test_dataloader(self):
        return torch.utils.data.DataLoader(255 - self.images, batch_size=9)


class WideGAN(TinyGAN):
    def forward(self, z):
        return self.generator(z).repeat(1, 1, 4, 4)


class Extractor(nn.Module):
    """Three features and two logits; counts the images that it sees."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.images = 0
        self.prepared = 0

    def prepare(self):
        self.prepared += 1

    def forward(self, images):
        self.images += len(images)
        features = (images.float() / 255).mean((2, 3)) * self.weight
        return features, 40 * features[:, :2]


def metrics_of(**settings):
    defaults = {
        "every_n_steps": None,
        "num_samples": 30,
        "extractor": Extractor(),
        "batch_size": 8,
        "kid_subset_size": 10,
        "kid_subsets": 4,
        "is_splits": 3,
        "pairs": 20,
        "seed": 3,
    }
    return ImageMetrics(**(defaults | settings))


def model():
    torch.manual_seed(0)
    return WideGAN()


def validated(folder, metrics, data=None, gan=None, verbose=False):
    trainer = tiny_trainer(folder, metrics, limit_val_batches=1)
    [scores] = trainer.validate(gan or model(), datamodule=data or Images(), verbose=verbose)
    return scores


@torch.no_grad()
def generated(gan, count=30):
    draw, gan = torch.Generator().manual_seed(3), gan.eval()
    sizes = [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    images = torch.cat([gan.sample(n, draw) for n in sizes])
    return (255 * images).round().byte()


def test_one_pass_makes_all_scores(tmp_path):
    metrics = metrics_of(scores=list(SCORES))
    scores = validated(tmp_path, metrics)
    assert metrics.extractor.images == 30 + 40
    assert [name for name in scores if name != "step"] == columns(SCORES)
    assert list(metrics.latest) == ["step", *columns(SCORES)]
    fake, real = generated(model()), Images().images
    features, logits = Extractor()(fake)
    assert scores["inception_score"] == pytest.approx(inception_score(logits, splits=3, seed=3)[0])
    own, data = (mean_similarity(images, pairs=20, seed=3)[0] for images in (fake, real))
    assert scores["ms_ssim"] == pytest.approx(own, rel=1e-5)
    assert scores["ms_ssim_ratio"] == pytest.approx(own / data, rel=1e-5)
    precision, recall = precision_recall(Extractor()(real)[0], features)
    assert (scores["precision"], scores["recall"]) == pytest.approx((precision, recall))
    assert 1 <= scores["modes"] <= 30
    assert mode_coverage(torch.zeros(1, dtype=torch.long))["modes"] == 1
    assert all(scores[name] >= 0 for name in columns(SCORES) if name.endswith("_std"))


def test_validate_and_test_use_their_own_number_of_samples(tmp_path):
    metrics = metrics_of(every_n_steps=2, test_samples=70)
    torch.manual_seed(0)
    trainer = tiny_trainer(tmp_path, metrics, limit_val_batches=1, max_steps=2)
    gan = model()
    trainer.fit(gan, datamodule=Images())
    assert metrics.protocol["num_samples"] == 30
    trainer.validate(gan, datamodule=Images(), verbose=False)
    assert metrics.protocol["num_samples"] == 70
    assert "70 generated and 40 training images, extractor Extractor" in metrics.table()


def test_a_compiled_extractor_gives_the_same_scores_and_shares_no_cache(tmp_path):
    scores = {}
    for backend in (False, "aot_eager"):
        torch._dynamo.reset()
        counters.clear()
        metrics = metrics_of(cache_dir=tmp_path / "cache", compile=backend)
        scores[backend] = validated(tmp_path / str(backend), metrics)
        # The extractor's graph, and that of the pass that tries the backend.
        assert (counters["stats"]["unique_graphs"] > 1) == bool(backend)
        assert metrics.protocol.get("compile", False) == backend
    assert scores["aot_eager"] == pytest.approx(scores[False], rel=1e-4, abs=1e-7)
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 2


def test_an_unknown_compiler_of_the_extractor_is_one_line_at_start(tmp_path):
    with pytest.raises(ValueError, match=r"^compile: no_such_backend is not allowed here") as error:
        validated(tmp_path, metrics_of(compile="no_such_backend"))
    assert "\n" not in str(error.value)


def test_the_raw_generator_can_be_scored(tmp_path):
    rows = {}
    for weights, decay in (("average", 0.5), ("raw", 0.5), ("average", None)):
        metrics = metrics_of(every_n_steps=6, weights=weights)
        gan = model()
        tiny_trainer(tmp_path, metrics, GeneratorEMA(decay)).fit(gan, datamodule=Images())
        rows[weights, decay] = metrics.latest
    assert rows["average", 0.5] != rows["raw", 0.5] == rows["average", None]


def test_the_test_split_has_other_scores(tmp_path):
    metrics = metrics_of(split="test")
    assert validated(tmp_path, metrics) != validated(tmp_path, metrics_of())
    assert "test images" in metrics.table()


@pytest.mark.parametrize(
    ("name", "extra"),
    [("mnist", []), ("color_mnist", ["color_js"]), ("stacked_mnist", ["modes", "reverse_kl"])],
)
def test_default_scores_and_extractor_suit_the_data(tmp_path, name, extra):
    data = Images(100)
    data.name = name
    metrics = metrics_of(extractor=None, num_samples=80)
    validated(tmp_path, metrics, data)
    assert [n for n in metrics.latest if not n.endswith("_std")] == ["step", "fid", "kid", *extra]
    [classifier] = metrics._digits.values()
    assert torch.equal(classifier.head.bias, type(classifier).pretrained("mnist").head.bias)


def test_scores_without_features_need_no_extractor(tmp_path):
    data = Images()
    data.name = "photographs"
    scores = validated(
        tmp_path, metrics_of(extractor=None, num_samples=80, scores=["ms_ssim"]), data
    )
    assert 0 < scores["ms_ssim"] < 1


def trained(folder, *callbacks):
    torch.manual_seed(0)
    gan = WideGAN()
    tiny_trainer(folder, *callbacks, max_steps=4).fit(gan, datamodule=Images())
    return [*gan.state_dict().values(), torch.rand(3)]


def test_training_does_not_notice_any_score(tmp_path):
    metrics = metrics_of(every_n_steps=1, scores=list(SCORES), cache_dir=tmp_path / "cache")
    scored, plain = trained(tmp_path, metrics), trained(tmp_path)
    assert len(metrics.history) == 4
    assert all(torch.equal(a, b) for a, b in zip(scored, plain, strict=True))


# --- real statistics on disk ----------------------------------------------------------------------


def test_statistics_of_the_real_images_are_kept_beside_the_data(tmp_path):
    first, second = metrics_of(scores=list(SCORES)), metrics_of(scores=list(SCORES))
    expected = validated(tmp_path, first, Images(root=tmp_path))
    assert validated(tmp_path, second, Images(root=tmp_path, batch_size=5)) == expected
    assert (first.extractor.images, second.extractor.images) == (70, 30)
    [file] = (tmp_path / "scores").glob("*.pt")
    assert file.name.startswith("mnist-")


def heavier():
    extractor = Extractor()
    extractor.weight.data += 1e-3
    return extractor


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ({"num_images": 41}, {}),
        ({"size": 20}, {}),
        ({}, {"split": "test"}),
        ({}, {"extractor": heavier()}),
        ({}, {"extractor": TinyExtractor()}),
        ({}, {"scores": ["kid"]}),
    ],
)
def test_whatever_changes_them_makes_other_statistics(tmp_path, data, settings):
    validated(tmp_path, metrics_of(cache_dir=tmp_path), Images())
    validated(tmp_path, metrics_of(cache_dir=tmp_path, **settings), Images(**data))
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_one_pixel_makes_other_statistics(tmp_path):
    for change in (0, 1):
        data = Images()
        data.images[39, 2, 15, 15] ^= change
        validated(tmp_path, metrics_of(cache_dir=tmp_path), data)
    data.images[[0, 1]] = data.images[[1, 0]]
    validated(tmp_path, metrics_of(cache_dir=tmp_path), data)
    assert len(list(tmp_path.glob("*.pt"))) == 3


def test_without_a_folder_nothing_of_the_real_images_is_kept(tmp_path):
    validated(tmp_path, metrics_of())
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_a_damaged_file_gives_the_same_scores(tmp_path):
    expected = validated(tmp_path, metrics_of(cache_dir=tmp_path))
    [file] = tmp_path.glob("*.pt")
    file.write_bytes(file.read_bytes()[:-30])
    again = metrics_of(cache_dir=tmp_path)
    assert validated(tmp_path, again) == expected
    assert again.extractor.images == 70
    assert validated(tmp_path, metrics_of(cache_dir=tmp_path)) == expected


def test_an_unusable_folder_gives_the_same_scores(tmp_path):
    (tmp_path / "file").write_text("in the way")
    scores = validated(tmp_path, metrics_of(cache_dir=tmp_path / "file"))
    assert scores == validated(tmp_path, metrics_of())


# --- what is said ---------------------------------------------------------------------------------


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    return caplog


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.5, float("nan")), "4 of 30 generated images are not finite; scores are NaN"),
        ((0.5, 7.0), r"4 of 30 generated images have values outside the data's [0, 1], in ["),
        ((0.5, 1.0005), None),
    ],
)
def test_bad_samples_are_said(tmp_path, told, values, message):
    class Bad(WideGAN):
        def sample(self, n, generator=None):
            images = super().sample(n, generator)
            images[0, 0, :2, 0] = torch.tensor(values)
            return images

    validated(tmp_path, metrics_of(), gan=Bad())
    lines = [r.message for r in told.records if r.message.startswith("metrics:")]
    assert len(lines) == (message is not None)
    assert all(message in line for line in lines)


def test_an_extractor_is_prepared_at_the_start(tmp_path):
    class Missing(Extractor):
        def prepare(self):
            raise FileNotFoundError("weights: 'gone.pth' is not a file")

    metrics = metrics_of(every_n_steps=100, extractor=Missing())
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        fitted_state(tmp_path, metrics)
    fitted_state(tmp_path, metrics_of(every_n_steps=None, extractor=Missing()))


def test_too_few_real_images_are_said_at_the_start(tmp_path):
    data = Images(9)
    data.train_data = data.images
    trainer = tiny_trainer(tmp_path, metrics_of(every_n_steps=1000), max_steps=1)
    with pytest.raises(ValueError, match=r"at most the number of real images \(9\), got 10"):
        trainer.fit(model(), datamodule=data)
    assert trainer.global_step == 0


def test_the_inception_score_needs_logits(tmp_path):
    metrics = metrics_of(extractor=TinyExtractor(), scores=["is"])
    with pytest.raises(ValueError, match="which gives no logits"):
        validated(tmp_path, metrics)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": ["fid", "lpips"]}, r"scores\[1\]: 'lpips' is not allowed; it must be one of"),
        ({"split": "val"}, "split: 'val' is not allowed"),
        ({"weights": "ema"}, "weights: 'ema' is not allowed"),
        ({"is_splits": 0}, "is_splits: 0 is not allowed"),
        ({"pairs": 0}, "pairs: 0 is not allowed"),
        ({"test_samples": 9}, "test_samples must be at least 10"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        metrics_of(**settings)


def test_the_protocol_says_what_scores_depend_on(tmp_path):
    metrics = metrics_of()
    assert metrics.protocol == {}
    validated(tmp_path, metrics)
    protocol = metrics.protocol
    assert protocol.pop("extractor").startswith("Extractor-")
    assert protocol == {
        "scores": ["fid", "kid"],
        "data": "mnist",
        "split": "train",
        "real_images": 40,
        "num_samples": 30,
        "batch_size": 8,
        "weights": "raw",
        "kid_subset_size": 10,
        "kid_subsets": 4,
        "is_splits": 3,
        "pairs": 20,
        "neighbors": 3,
        "seed": 3,
    }
