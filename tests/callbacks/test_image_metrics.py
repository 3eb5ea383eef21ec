import csv
import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from tiny_gan import (
    TinyExtractor,
    TinyGAN,
    TinyImages,
    assert_same_training,
    fitted_state,
    tiny_trainer,
)
from torch import nn

from lightning_igm.callbacks.ema import GeneratorEMA
from lightning_igm.callbacks.image_metrics import ImageMetrics
from lightning_igm.metrics.scores import image_scores


def tiny_metrics(every_n_steps=2, **settings):
    defaults = {
        "num_samples": 30,
        "extractor": TinyExtractor(),
        "batch_size": 8,
        "kid_subset_size": 10,
        "kid_subsets": 4,
        "seed": 3,
    }
    return ImageMetrics(every_n_steps, **(defaults | settings))


def features_of(images):
    return (images.double() * 255).round().div(255).mean((2, 3)).float()


def scores_by_hand(model, seed=3):
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        fake = torch.cat([model.sample(n, generator) for n in (8, 8, 8, 6)])
    real = TinyImages().images / 255
    settings = {"kid_subset_size": 10, "kid_subsets": 4, "seed": seed}
    return image_scores(features_of(real), features_of(fake), **settings)


def assert_row(row, step, scores):
    assert row.keys() == {"step", "fid", "fid_std", "kid", "kid_std"}
    assert row["step"] == step
    for name, value in scores._asdict().items():
        # The extractor's float32 means are not the reference's to the last digit.
        assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-6)


def test_scores_equal_the_slow_way(tmp_path):
    metrics = tiny_metrics()
    model, _, _ = fitted_state(tmp_path, metrics)
    assert [row["step"] for row in metrics.history] == [2, 4, 6]
    assert_row(metrics.latest, 6, scores_by_hand(model))


def test_scores_are_those_of_the_averaged_generator(tmp_path):
    metrics, ema = tiny_metrics(), GeneratorEMA(0.9)
    model, _, _ = fitted_state(tmp_path, metrics, ema)
    with ema.average(model):
        expected = scores_by_hand(model)
    assert_row(metrics.latest, 6, expected)
    assert metrics.latest["fid"] != pytest.approx(scores_by_hand(model).fid, rel=1e-3)


def test_cadence_counts_generator_steps_once(tmp_path):
    metrics = tiny_metrics()
    evaluations = []
    evaluate = metrics.evaluate
    metrics.evaluate = lambda *args: evaluations.append(1) or evaluate(*args)
    # Epochs of 5 batches, every third one a generator step: 5 steps in 25 batches.
    fitted_state(tmp_path, metrics, critic_steps=2, max_steps=-1, max_epochs=5)
    assert len(evaluations) == 2
    assert [row["step"] for row in metrics.history] == [2, 4]


@pytest.mark.parametrize("settings", [{}, {"limit_val_batches": 1, "check_val_every_n_epoch": 1}])
def test_training_does_not_notice(tmp_path, settings):
    extractor = nn.Sequential(TinyExtractor(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    metrics = tiny_metrics(extractor=extractor)
    with_metrics = fitted_state(tmp_path, metrics, **settings)
    assert_same_training(with_metrics, fitted_state(tmp_path, **settings))
    assert torch.equal(extractor[1].running_mean, torch.zeros(3))


def test_the_random_state_survives_an_exception(tmp_path):
    class Broken(TinyExtractor):
        def forward(self, images):
            torch.rand(3)
            raise RuntimeError("broken extractor")

    metrics = tiny_metrics(None)
    trainer = tiny_trainer(tmp_path, metrics)
    model = TinyGAN()
    trainer.fit(model, datamodule=TinyImages())
    metrics.extractor = Broken()
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken extractor"):
        metrics.evaluate(trainer, model)
    assert torch.equal(torch.get_rng_state(), state)


def test_real_features_are_computed_once(tmp_path):
    data = TinyImages()
    metrics = tiny_metrics(1)
    tiny_trainer(tmp_path, metrics).fit(TinyGAN(), datamodule=data)
    assert len(metrics.history) == 6
    assert data.ordered_passes == 1
    other = TinyImages(num_images=50)
    tiny_trainer(tmp_path, metrics).fit(TinyGAN(), datamodule=other)
    assert other.ordered_passes == 1
    assert "50 training images" in metrics.table()


def test_repeated_evaluations_are_equal(tmp_path):
    metrics = tiny_metrics(None)
    trainer = tiny_trainer(tmp_path, metrics)
    model = TinyGAN()
    trainer.fit(model, datamodule=TinyImages())
    assert metrics.history == []
    first = metrics.evaluate(trainer, model)
    torch.rand(5)
    assert metrics.evaluate(trainer, model) == first


def test_the_default_extractor_is_the_digit_classifier(tmp_path):
    class LargeImages(TinyImages):
        """Enlarges to the classifier's smallest size."""

        def __init__(self):
            super().__init__(num_images=100)
            self.images = self.images.repeat(1, 1, 2, 2)

    class LargeGAN(TinyGAN):
        def forward(self, z):
            return self.generator(z).repeat(1, 1, 2, 2)

    metrics = tiny_metrics(2, extractor=None, num_samples=80)
    tiny_trainer(tmp_path, metrics, max_steps=2).fit(LargeGAN(), datamodule=LargeImages())
    assert math.isfinite(metrics.latest["fid"])
    assert "extractor DigitClassifier" in metrics.table()


def test_an_extractor_may_return_a_tuple(tmp_path):
    class Two(nn.Module):
        def forward(self, images):
            return TinyExtractor()(images), None

    one, two = tiny_metrics(), tiny_metrics(extractor=Two())
    fitted_state(tmp_path, one)
    fitted_state(tmp_path, two)
    assert one.history == two.history


def test_samples_that_are_not_finite_score_nan(tmp_path):
    class Broken(TinyGAN):
        def sample(self, n, generator=None):
            images = super().sample(n, generator)
            images[0, 0, 0, 0] = float("inf")
            return images

    metrics = tiny_metrics()
    tiny_trainer(tmp_path, metrics, max_steps=2).fit(Broken(), datamodule=TinyImages())
    assert math.isnan(metrics.latest["fid"])
    assert math.isnan(metrics.latest["kid"])


def test_loggers_get_each_score_once_at_its_generator_step(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    metrics = tiny_metrics()
    fitted_state(tmp_path, metrics, logger=logger, critic_steps=1, log_every_n_steps=3)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("fid")]
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    for row, score in zip(rows, metrics.history, strict=True):
        assert float(row["kid_std"]) == pytest.approx(score["kid_std"], rel=1e-6)


def test_a_checkpoint_can_monitor_the_fid_of_its_step(tmp_path):
    seen = []

    class Monitor(ModelCheckpoint):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((trainer.global_step, trainer.callback_metrics.get("fid")))

    metrics = tiny_metrics()
    monitor = Monitor(tmp_path, monitor="fid")
    fitted_state(tmp_path, metrics, monitor, enable_checkpointing=True)
    at_step = {step: fid for step, fid in seen if step % 2 == 0}
    for row in metrics.history:
        assert float(at_step[row["step"]]) == pytest.approx(row["fid"], rel=1e-6)


def test_validate_and_test_return_and_print_the_scores(tmp_path, capsys):
    metrics = tiny_metrics(None)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = tiny_trainer(tmp_path, metrics, limit_val_batches=1, logger=logger, max_steps=5)
    model = TinyGAN()
    trainer.fit(model, datamodule=TinyImages())
    capsys.readouterr()
    for run in (trainer.validate, trainer.test):
        [scores] = run(model, datamodule=TinyImages(), verbose=False)
        assert scores["fid"] == pytest.approx(metrics.latest["fid"], rel=1e-6)
        assert "       5  " in capsys.readouterr().out
    with (tmp_path / "metrics.csv").open() as file:
        assert {row["step"] for row in csv.DictReader(file)} == {"5"}


def test_validate_states_the_step_of_the_checkpoint(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    metrics = tiny_metrics()
    validator = tiny_trainer(tmp_path, metrics, limit_val_batches=1)
    model, data = TinyGAN(), TinyImages()
    validator.validate(model, datamodule=data, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert [row["step"] for row in metrics.history] == [6]


def test_the_sanity_check_is_not_scored(tmp_path):
    metrics = tiny_metrics(None)
    settings = {"limit_val_batches": 1, "num_sanity_val_steps": 1, "max_steps": 1}
    fitted_state(tmp_path, metrics, check_val_every_n_epoch=100, **settings)
    assert metrics.history == []


def test_the_table_is_printed_at_the_end_of_fit(tmp_path, capsys):
    metrics = tiny_metrics(3)
    fitted_state(tmp_path, metrics)
    rows = [
        f"{row['step']:>9.0f}  {row['fid']:.4f} ± {row['fid_std']:.4f}  "
        f"{row['kid']:.5f} ± {row['kid_std']:.5f}"
        for row in metrics.history
    ]
    expected = [
        "     step              fid                kid",
        *rows,
        "30 generated and 40 training images, extractor TinyExtractor, 4 KID subsets of 10, seed 3",
    ]
    assert "\n".join(expected) in capsys.readouterr().out


def test_a_resumed_run_keeps_the_history_and_no_weights_are_saved(tmp_path):
    metrics = tiny_metrics()
    trainer = tiny_trainer(tmp_path, metrics, max_steps=4)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["ImageMetrics"] == {"history": metrics.history}
    assert checkpoint["state_dict"].keys() == TinyGAN().state_dict().keys()

    resumed = tiny_metrics()
    tiny_trainer(tmp_path, resumed, max_steps=6).fit(
        TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt"
    )
    assert [row["step"] for row in resumed.history] == [2, 4, 6]
    assert resumed.history[:2] == metrics.history


class Expect(Callback):
    """Every rank must have the scores of one process with all images."""

    def __init__(self, metrics, expected_fid):
        self.metrics = metrics
        self.expected_fid = expected_fid

    def on_validation_end(self, trainer, pl_module):
        scores = torch.tensor(list(self.metrics.latest.values()))
        on_all = pl_module.all_gather(scores)
        assert torch.equal(on_all[0], on_all[1])
        assert self.metrics.protocol["real_images"] == 41
        assert self.metrics.latest["fid"] == pytest.approx(self.expected_fid, rel=1e-6)


def frozen(model):
    for parameter in model.parameters():
        parameter.data.fill_(0.1)
    return model


def test_two_processes_agree_with_one(tmp_path):
    settings = {"max_steps": 1, "limit_val_batches": 1}
    alone = tiny_metrics(None)
    # Validation before any step: the weights are known.
    tiny_trainer(tmp_path, alone, **settings).validate(
        frozen(TinyGAN()), datamodule=TinyImages(41), verbose=False
    )
    shared = tiny_metrics(None)
    strategy = DDPStrategy(start_method="spawn", process_group_backend="gloo")
    expect = Expect(shared, alone.latest["fid"])
    tiny_trainer(tmp_path, shared, expect, strategy=strategy, devices=2, **settings).validate(
        frozen(TinyGAN()), datamodule=TinyImages(41), verbose=False
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1 or None, got 0"),
        ({"every_n_steps": -5}, "every_n_steps must be at least 1 or None, got -5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"kid_subset_size": 1}, "kid_subset_size must be at least 2, got 1"),
        ({"kid_subsets": 0}, "kid_subsets must be at least 1, got 0"),
        ({"num_samples": 9}, "num_samples must be at least 10 .*, got 9"),
        ({"num_samples": 60, "extractor": None}, "at least 65 .* the 64 features.*, got 60"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_metrics(**settings)


def test_too_few_training_images_are_named(tmp_path):
    metrics = tiny_metrics(kid_subset_size=30)
    trainer = tiny_trainer(tmp_path, metrics)
    with pytest.raises(ValueError, match=r"number of real images \(20\), got 30"):
        trainer.fit(TinyGAN(), datamodule=TinyImages(num_images=20))
