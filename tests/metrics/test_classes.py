"""Scores as torchmetrics: the functions' numbers, over batches, in collections, in any module."""

import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torchmetrics import MetricCollection

from lightning_igm.data import RingDataModule
from lightning_igm.metrics import (
    ColorDivergence,
    DigitClassifier,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    ModeCoverage,
    MultiScaleSSIM,
    PrecisionRecall,
    RingCoverage,
    Score,
    color_divergence,
    frechet_error,
    inception_score,
    kernel_distance,
    main_colors,
    mean_similarity,
    mode_coverage,
    precision_recall,
    score_classes,
    stacked_modes,
)
from lightning_igm.metrics.frechet import moments
from lightning_igm.metrics.modes import ModeReference


def images(count, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 28, 28), generator=draw, dtype=torch.uint8)


def features(count, seed):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).exp()


def ring():
    data = RingDataModule(test_count=200, count=100, batch_size=50)
    data.setup()
    return data


def by_fid(real, fake):
    return map(float, frechet_error(*moments(real), *moments(fake), fake))


def by_ssim(real, fake):
    own, data = (mean_similarity(i, pairs=30, seed=3) for i in (fake, real))
    return own[0], own[1], data[0], data[1], own[0] / data[0]


def by_modes(real, fake):
    modes = stacked_modes(fake, DigitClassifier.pretrained("mnist"))
    return mode_coverage(modes, seed=3).values()


def by_ring(real, fake):
    return ModeReference(ring().test_data, ring().centres).scores(fake).values()


def by_precision(real, fake):
    precision, recall = precision_recall(real, fake, neighbors=2)
    return precision, (precision * (1 - precision) / 40) ** 0.5, recall


def kid_by(real, fake):
    return kernel_distance(real, fake, subset_size=20, subsets=5, seed=3)


def is_by(real, fake):
    return inception_score(fake, splits=3, seed=3)


CASES = {
    "fid": (FrechetDistance, features, by_fid),
    "kid": (lambda **k: KernelDistance(20, 5, 3, **k), features, kid_by),
    "is": (lambda **k: InceptionScore(3, 3, **k), features, is_by),
    "ms_ssim": (lambda **k: MultiScaleSSIM(30, 3, **k), images, by_ssim),
    "precision_recall": (lambda **k: PrecisionRecall(2, **k), features, by_precision),
    "modes": (lambda **k: ModeCoverage(seed=3, **k), images, by_modes),
    "colors": (
        ColorDivergence,
        images,
        lambda real, fake: color_divergence(main_colors(real), main_colors(fake)),
    ),
    "ring": (
        lambda **k: RingCoverage(ring().test_data, ring().centres, **k),
        lambda count, seed: ring().train_data[:count] + 0.1 * seed,
        by_ring,
    ),
}
every = pytest.mark.parametrize("name", CASES)


def sets(name):
    make, data, _ = CASES[name]
    return make, data(45, 1), data(40, 2)


def fed(metric, real, fake, size=7):
    for samples, kind in ((fake, False), (real, True)):
        for batch in samples.split(size):
            metric.update(batch, real=kind)
    return metric


def numbers(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def test_there_is_a_case_for_every_class():
    assert [name for name, kind in score_classes().items() if kind.order < 100] == [
        *("fid", "kid", "is", "ms_ssim", "precision_recall", "modes", "colors", "ring")
    ]


@every
@pytest.mark.parametrize("size", [7, 45])
def test_batches_give_the_function_s_numbers(name, size):
    make, real, fake = sets(name)
    made = fed(make(), real, fake, size).compute()
    assert list(made) == score_classes()[name].names()
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in made.values())
    expected = list(CASES[name][2](real, fake))
    assert list(map(float, made.values()))[: len(expected)] == pytest.approx(expected, rel=1e-9)


@every
def test_attributes_say_what_it_is(name):
    kind = score_classes()[name]
    assert kind.name == name
    assert kind.needs in ("features", "logits", "images", "points")
    assert kind.full_state_update is False
    better = set(kind.columns.values())
    assert kind.higher_is_better is None or better == {kind.higher_is_better}
    assert set(kind.headlines or ()) <= set(kind.columns)


@every
def test_positions_make_the_order_of_updates_irrelevant(name):
    make, real, fake = sets(name)
    if name == "modes":
        pytest.skip("counts have no order")
    expected, metric = numbers(fed(make(), real, fake)), make()
    for samples, kind in ((real, True), (fake, False)):
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(5))
        for rows in order.split(9):
            metric.update(samples[rows], real=kind, index=rows)
    assert numbers(metric) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["fid", "kid", "is", "precision_recall", "colors", "ms_ssim"])
def test_rows_beyond_the_limit_are_left_out_evenly_known_or_not(name, monkeypatch):
    make, real, fake = sets(name)
    monkeypatch.setattr(score_classes()[name], "max_rows", 25)
    known, unknown = make(), make()
    for samples, kind in ((real, True), (fake, False)):
        for rows in torch.arange(len(samples)).split(9):
            unknown.update(samples[rows], real=kind)
            known.update(samples[rows], real=kind, index=rows, total=len(samples))
    states = [n for n in known._defaults if n.endswith("_index")]
    assert states
    for state in states:
        assert known.count(state) in (25, 0)
        assert unknown.count(state) in (45, 40, 0)
    assert numbers(known) == pytest.approx(numbers(unknown), rel=1e-9)


def test_memory_is_made_once_where_the_number_of_rows_is_known():
    values = torch.randn(20, 3)

    def updated(metric, rows, total):
        metric.update(values[rows], real=True, index=torch.tensor(rows), total=total)

    metric = KernelDistance(2)
    updated(metric, [0, 1, 2], 8)
    [first] = metric.real_features
    updated(metric, [3, 4], 8)
    [part] = metric.real_features
    assert part.data_ptr() == first.data_ptr()
    copied = pickle.loads(pickle.dumps(metric))
    loaded = KernelDistance(2)
    updated(loaded, [9], 8)
    metric.persistent(True)
    loaded.load_state_dict(deepcopy(metric.state_dict()))
    for each in (metric, copied, deepcopy(metric), loaded):
        updated(each, [5], 8)
        updated(each, [6, 7, 8], None)  # More than were announced.
        updated(each, [9, 10], 8)
        updated(each, [11], None)
        assert torch.equal(each.rows("real_features"), values[:12])
    metric.reset()
    updated(metric, [4, 5], 8)
    assert torch.equal(metric.rows("real_features"), values[4:6])
    assert torch.equal(copied.rows("real_features"), values[:12])


@every
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_is_pickled_and_copied_with_what_it_took_in(name, when):
    make, real, fake = sets(name)
    metric = make()
    if when == "after":
        fed(metric, real, fake)
    for other in (pickle.loads(pickle.dumps(metric)), deepcopy(metric), metric.clone()):
        if when == "before":
            fed(other, real, fake)
        assert numbers(other) == pytest.approx(numbers(fed(make(), real, fake)), rel=1e-12)


@pytest.mark.parametrize("name", ["fid", "kid", "is", "precision_recall", "ring"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_those_of_the_input(name, dtype):
    make, real, fake = sets(name)
    real, fake = real.to(dtype), fake.to(dtype)
    exact = (t.double() if dtype == torch.float64 else t.float() for t in (real, fake))
    assert numbers(fed(make(), real, fake)) == pytest.approx(
        numbers(fed(make(), *exact)), rel=1e-9, nan_ok=True
    )


@every
def test_reset_forgets_all_or_keeps_the_real_ones(name):
    make, real, fake = sets(name)
    forgetful, keeping = make(), make(reset_real_features=False)
    expected = numbers(fed(keeping, real, fake))
    fed(forgetful, real, fake).reset()
    assert all(not forgetful.count(state) for state in forgetful._defaults)
    for _ in range(2):
        keeping.reset()
        for batch in fake.split(11):
            keeping.update(batch, real=False)
        assert numbers(keeping) == pytest.approx(expected, rel=1e-12)
    if type(forgetful).compares:
        for batch in fake.split(11):
            forgetful.update(batch, real=False)
        with pytest.raises(ValueError, match="real"):
            forgetful.compute()


@every
def test_real_statistics_can_be_saved_as_any_state(name):
    make, real, fake = sets(name)
    first, second = make(), make()
    for batch in real.split(20):
        first.update(batch, real=True)
    first.persistent(True)
    second.load_state_dict(deepcopy(first.state_dict()))
    for batch in fake.split(20):
        second.update(batch, real=False)
    assert numbers(second) == pytest.approx(numbers(fed(make(), real, fake)), rel=1e-9)
    second.persistent(False)
    assert second.state_dict() == {}, "the states are in no checkpoint unless that is asked for"


@every
def test_plot_shows_one_result_or_several(name):
    make, real, fake = sets(name)
    metric = fed(make(), real, fake)
    values = metric.compute()
    for shown in (None, values, [values, values]):
        figure, _ = metric.plot(shown)
        figure.canvas.draw()
        plt.close(figure)


BAD = {
    "fid": torch.zeros(3),
    "kid": torch.zeros(3, 2, 2),
    "is": torch.zeros(3),
    "ms_ssim": torch.zeros(3, 3, 8, 8),
    "precision_recall": torch.zeros(3),
    "modes": torch.zeros(3, 1, 28, 28, dtype=torch.uint8),
    "colors": torch.zeros(3, 1, 28, 28, dtype=torch.uint8),
    "ring": torch.zeros(3, 5),
}


@every
def test_bad_input_is_one_line(name):
    make, _, _ = sets(name)
    with pytest.raises(ValueError, match=r"shape|torch\.float32") as error:
        make().update(BAD[name], real=False)
    assert "not allowed; " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fid", "kid", "is"])
def test_rows_of_another_width_are_one_line(name):
    metric = CASES[name][0]()
    metric.update(torch.zeros(4, 5), real=False)
    with pytest.raises(ValueError, match=r"shape \(4, 6\) is not allowed"):
        metric.update(torch.zeros(4, 6), real=False)


@every
def test_too_few_samples_are_one_line(name):
    make, real, fake = sets(name)
    metric = make()
    with (
        pytest.warns(UserWarning, match="was called before"),
        pytest.raises(ValueError, match=r"real|generated") as error,
    ):
        metric.compute()
    assert "\n" not in str(error.value)
    if name != "modes":
        metric.update(fake[:1], real=False)
        metric.update(real[:1], real=True)
        with pytest.raises(ValueError, match=r"real|generated"):
            metric.compute()


@every
def test_a_batch_has_no_score(name):
    make, real, fake = sets(name)
    metric = fed(make(), real, fake)
    expected = numbers(metric)
    with pytest.raises(TypeError, match="a batch alone has no score"):
        metric(fake, real=False)
    assert numbers(metric) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelDistance(subset_size=1), "kid_subset_size must be at least 2"),
        (lambda: InceptionScore(splits=0), "splits: 0 is not allowed"),
        (lambda: PrecisionRecall(neighbors=0), "neighbors: 0 is not allowed"),
        (lambda: MultiScaleSSIM(pairs=0), "pairs: 0 is not allowed"),
        (lambda: FrechetDistance(feature=64), "Unexpected keyword arguments: `feature`"),
    ],
)
def test_bad_arguments_are_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Extractor(nn.Module):
    calls = 0

    def forward(self, images):
        self.calls += 1
        means = images.float().mean((2, 3)) / 255
        return means, 40 * means


def collection(**settings):
    return MetricCollection(
        [
            FrechetDistance(**settings),
            KernelDistance(20, 5, **settings),
            InceptionScore(3, **settings),
            PrecisionRecall(**settings),
            MultiScaleSSIM(30, **settings),
            ModeCoverage(**settings),
            ColorDivergence(**settings),
        ]
    )


def feed(metrics, extractor, batch, real, **more):
    codes, logits = extractor(batch)
    metrics.update(features=codes, logits=logits, images=batch, real=real, **more)


def alone(extractor, real, fake):
    """Each score by itself."""
    made = {}
    for metric in collection().values():
        for batch, kind in [(b, True) for b in real.split(9)] + [(b, False) for b in fake.split(9)]:
            codes, logits = extractor(batch)
            given = {"features": codes, "logits": logits, "images": batch}[metric.needs]
            metric.update(given, real=kind)
        made |= numbers(metric)
    return made


def test_a_collection_feeds_all_scores_from_one_pass():
    extractor, metrics = Extractor(), collection(reset_real_features=False)
    real, fake = images(45, 1), images(40, 2)
    for batch in real.split(9):
        feed(metrics, extractor, batch, True)
    for _ in range(2):
        for batch in fake.split(9):
            feed(metrics, extractor, batch, False)
        made = numbers(metrics)
        metrics.reset()
    assert extractor.calls == 5 + 2 * 5
    assert made == pytest.approx(alone(extractor, real, fake), rel=1e-9)
    groups = [sorted(group) for group in metrics.compute_groups.values()]
    assert ["KernelDistance", "PrecisionRecall"] in groups, "they share their rows"
    assert len(groups) == 6


class Foreign(LightningModule):
    """A module that is not ours, as torchmetrics' documentation has it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.extractor, self.metrics = Extractor(), collection()

    def validation_step(self, batch, batch_idx):
        fake, real = batch
        feed(self.metrics, self.extractor, real, True)
        feed(self.metrics, self.extractor, fake, False)

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


def test_any_module_can_log_them(tmp_path):
    real, fake = images(45, 1), images(45, 2)
    pairs = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(fake, real), batch_size=8, num_workers=0
    )
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    model = Foreign()
    [logged] = trainer.validate(model, pairs, verbose=False)
    assert logged == pytest.approx(alone(Extractor(), real, fake), rel=1e-6)
    assert model.state_dict().keys() == {"layer.weight", "layer.bias"}


def test_a_score_is_one_class():
    class Brightness(Score):
        name = "brightness"
        columns = {"brightness": True}  # noqa: RUF012
        has_spreads = False
        needs = "images"
        compares = False

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.hold("fake_images")

        def update(self, images, real=False):
            if not real:
                self.keep("fake_images", images)

        def scores(self):
            return {"brightness": float(self.rows("fake_images").double().mean())}

    try:
        assert score_classes()["brightness"] is Brightness
        metric = Brightness()
        metric.update(torch.full((3, 1, 2, 2), 9, dtype=torch.uint8))
        assert numbers(metric) == {"brightness": 9.0}
    finally:
        from lightning_igm.metrics import score

        del score._KNOWN["brightness"]


def test_the_documents_have_every_score_with_its_columns():
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *root.glob(".docs/pages/*.md")]
    rows = [line for page in pages for line in page.read_text().splitlines() if line[:1] == "|"]
    for name, kind in score_classes().items():
        if kind.order < 100 and kind.needs != "points":
            [row] = [row for row in rows if row.startswith(f"| `{name}` |")]
            assert all(f"`{column}`" in row for column in kind.columns)


def test_importing_metrics_or_losses_loads_no_lightning():
    code = (
        "import sys, lightning_igm.metrics, lightning_igm.losses.mmd\n"
        "from lightning_igm.metrics import frechet_distance, kernel_distance\n"
        "assert callable(kernel_distance)\n"
        "assert not {'lightning', 'torchmetrics', 'jsonargparse'} & set(sys.modules)\n"
        "lightning_igm.metrics.FrechetDistance()\n"
        "assert 'lightning' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
