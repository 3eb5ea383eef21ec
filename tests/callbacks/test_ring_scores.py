"""Pictures and scores of runs on points."""

import csv
import math

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from tiny_gan import fitted_state, tiny_trainer

from lightning_igm.callbacks import GeneratorEMA, RingScores, SampleGrid
from lightning_igm.data import GaussianDataModule, RingDataModule
from lightning_igm.evaluation.pictures import BLUE, ORANGE, plane, scatter, surroundings
from lightning_igm.metrics.modes import ModeReference
from lightning_igm.modules import GAN
from lightning_igm.networks import MLPCritic, MLPGenerator


def points(dim=2):
    return RingDataModule(dim=dim, count=400, test_count=300, batch_size=40)


def fitted(folder, *callbacks, data=None, dim=2, ckpt_path=None, **settings):
    torch.manual_seed(0)
    model = GAN(
        MLPGenerator(latent_dim=3, image_shape=(dim,), hidden=(8,)),
        MLPCritic(image_shape=(dim,), hidden=(8,)),
    )
    trainer = tiny_trainer(folder, *callbacks, **settings)
    trainer.fit(model, datamodule=data or points(dim), ckpt_path=ckpt_path)
    return model, trainer


def read(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def names(folder):
    return sorted(path.name for path in (folder / "samples").iterdir())


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_pictures_show_samples_on_test_points(tmp_path, dim):
    grid = SampleGrid(every_n_steps=4, seed=5, num_points=50)
    model, _ = fitted(tmp_path, grid, dim=dim)
    assert names(tmp_path) == ["real.png", "step_00000004.png", "step_00000006.png"]
    ring = points(dim)
    ring.setup()
    draw = torch.Generator().manual_seed(5)
    data = plane(ring, ring.test_data[torch.randperm(len(ring.test_data), generator=draw)[:50]])
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    samples = plane(ring, model(noise))
    square = surroundings(data)
    expected = scatter([(data, BLUE), (samples, ORANGE)], square)
    assert torch.equal(read(tmp_path / "samples" / "step_00000006.png"), expected)
    real = scatter([(data, BLUE)], square)
    assert torch.equal(read(tmp_path / "samples" / "real.png"), real)
    assert not torch.equal(real, expected)


def test_a_resumed_run_keeps_the_noise_of_its_pictures(tmp_path):
    _, trainer = fitted(tmp_path, SampleGrid(num_points=20, seed=1), max_steps=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = SampleGrid(num_points=20, seed=2)
    fitted(tmp_path, resumed, max_steps=4, ckpt_path=tmp_path / "half.ckpt")
    drawn = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(resumed.state_dict()["noise"], drawn)


def test_other_points_have_pictures_and_no_scores(tmp_path, capsys):
    data = GaussianDataModule(count=200, test_count=100, batch_size=50)
    scores = RingScores(every_n_steps=2, num_samples=50)
    fitted(tmp_path, SampleGrid(num_points=20), scores, data=data)
    assert names(tmp_path) == ["real.png", "step_00000006.png"]
    assert scores.history == []
    assert "modes" not in capsys.readouterr().out


def test_images_are_not_scored(tmp_path):
    scores = RingScores(every_n_steps=2, num_samples=50)
    fitted_state(tmp_path, scores)
    assert scores.history == []


# --- scores ---------------------------------------------------------------------------------------


def by_hand(model, dim=2, count=200, seed=3):
    ring = points(dim)
    ring.setup()
    reference = ModeReference(ring.test_data, ring.centres, ring.unrotated)
    return reference.scores(model.sample(count, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("dim", [2, 3])
def test_scores_are_those_of_the_samples(tmp_path, dim):
    scores = RingScores(every_n_steps=2, num_samples=200, seed=3)
    model, _ = fitted(tmp_path, scores, dim=dim)
    assert [row["step"] for row in scores.history] == [2, 4, 6]
    assert scores.latest == {"step": 6.0, **by_hand(model, dim)}


def test_scores_are_those_of_the_averaged_generator(tmp_path):
    scores, ema = RingScores(every_n_steps=2, num_samples=200, seed=3), GeneratorEMA(0.9)
    model, _ = fitted(tmp_path, scores, ema)
    with ema.average(model):
        averaged = by_hand(model)
    assert scores.latest == {"step": 6.0, **averaged}
    assert by_hand(model) != averaged


def test_training_does_not_notice(tmp_path):
    callbacks = SampleGrid(every_n_steps=2), RingScores(every_n_steps=2, num_samples=100)
    measured, _ = fitted(tmp_path, *callbacks)
    state = torch.get_rng_state()
    plain, _ = fitted(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in plain.state_dict().items():
        assert torch.equal(measured.state_dict()[key], value), key


def test_loggers_get_the_scores_at_their_step(tmp_path):
    scores = RingScores(every_n_steps=3, num_samples=100)
    fitted(tmp_path, scores, logger=CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["hq"]]
    assert [int(row["step"]) for row in rows] == [3, 6]
    for row, own in zip(rows, scores.history, strict=True):
        assert float(row["mmd2_0.2"]) == pytest.approx(own["mmd2_0.2"])


def test_validation_scores_and_prints_the_step_of_the_checkpoint(tmp_path, capsys):
    model, trainer = fitted(tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    scores = RingScores(num_samples=100)
    validator = tiny_trainer(tmp_path, scores, limit_val_batches=1)
    path = tmp_path / "last.ckpt"
    [found] = validator.validate(model, datamodule=points(), ckpt_path=path, verbose=False)
    assert found["hq"] == pytest.approx(scores.latest["hq"])
    assert [row["step"] for row in scores.history] == [6]
    assert "100 generated points" in capsys.readouterr().out


def test_a_resumed_run_keeps_the_history(tmp_path):
    scores = RingScores(every_n_steps=2, num_samples=100)
    _, trainer = fitted(tmp_path, scores, max_steps=4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = RingScores(every_n_steps=2, num_samples=100)
    fitted(tmp_path, resumed, max_steps=6, ckpt_path=tmp_path / "half.ckpt")
    assert [row["step"] for row in resumed.history] == [2, 4, 6]
    assert resumed.history[:2] == scores.history


def test_points_that_are_not_finite_have_diverged(tmp_path, capsys):
    class Broken(RingScores):
        def evaluate(self, trainer, pl_module):
            pl_module.generator.layers[-1].bias.data[0] = torch.nan
            try:
                return super().evaluate(trainer, pl_module)
            finally:
                pl_module.generator.layers[-1].bias.data[0] = 0

    scores = Broken(every_n_steps=3, num_samples=100)
    fitted(tmp_path, scores)
    assert scores.latest["diverged"] == 1
    assert scores.latest["modes_covered"] == 0
    assert math.isnan(scores.latest["kl_rev"])
    assert "diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "RingScores: every_n_steps must be at least 1 or None, got 0"),
        ({"num_samples": 1}, "RingScores: num_samples must be at least 2, got 1"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RingScores(**settings)
