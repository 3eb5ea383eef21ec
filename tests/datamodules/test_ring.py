import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_igm.callbacks import PredictionWriter, SampleGrid
from lightning_igm.data.ring import RingDataModule
from lightning_igm.data.sampler import stream_seed
from lightning_igm.modules import GAN
from lightning_igm.networks.base import SequentialCritic

ANGLES = [2 * math.pi * k / 8 - math.pi / 2 for k in range(8)]


def ready(dim=2, **kwargs):
    data = RingDataModule(dim, **kwargs)
    data.setup()
    return data


def rotated(a, b, c):
    cos, sin = math.cos(math.pi / 3), math.sin(math.pi / 3)
    return [a * cos + c * sin, b, -a * sin + c * cos]


def test_centres_in_the_plane():
    centres = RingDataModule().centres
    assert centres.dtype == torch.float32
    expected = torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle)] for angle in ANGLES])
    torch.testing.assert_close(centres, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(centres[0], torch.tensor([0.0, -2.0]), rtol=0, atol=1e-6)
    assert centres[2].tolist() == [2, 0]
    apart = (centres - centres.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(apart, torch.full((8,), 1.53073), rtol=0, atol=1e-5)


def test_centres_in_space():
    centres = RingDataModule(3).centres
    expected = [rotated(2 * math.cos(angle), 2 * math.sin(angle), 0) for angle in ANGLES]
    torch.testing.assert_close(centres, torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(centres[2], torch.tensor([1, 0, -1.7320508]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_points_equal_the_formula_one_by_one(dim):
    data = ready(dim, count=50, test_count=30, batch_size=10, seed=4)
    for stream, points, labels in (
        (0, data.train_data, data.train_labels),
        (1, data.test_data, data.test_labels),
    ):
        generator = torch.Generator().manual_seed(stream_seed(4, stream))
        modes = torch.randint(8, (len(points),), generator=generator)
        noise = torch.randn(len(points), dim, generator=generator)
        assert torch.equal(labels, modes)
        assert points.dtype == torch.float32
        for point, mode, draw in zip(points, modes, noise.tolist(), strict=True):
            a = 2 * math.cos(ANGLES[mode]) + 0.2 * draw[0]
            b = 2 * math.sin(ANGLES[mode]) + 0.2 * draw[1]
            expected = [a, b] if dim == 2 else rotated(a, b, 0.1 * draw[2])
            assert point.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("dim", "close"), [(2, 0.98889), (3, 0.98622)])
def test_defaults_are_the_published_law(dim, close):
    data = ready(dim)
    assert (data.seed, data.batch_size, data.value_range) == (1, 200, None)
    assert data.image_shape == (dim,)
    assert data.train_data.shape == (60_000, dim)
    assert data.test_data.shape == (10_000, dim)
    assert (data.train_labels.bincount() / 60_000 - 1 / 8).abs().max() < 0.005
    offsets = data.unrotated(data.train_data - data.centres[data.train_labels])
    assert offsets.mean(0).abs().max() < 0.004
    assert offsets.std(0).tolist() == pytest.approx([0.2, 0.2, 0.1][:dim], abs=0.002)
    near = offsets[:, :2].norm(dim=1) < 0.6
    if dim == 3:
        near &= offsets[:, 2].abs() < 0.3
    assert near.double().mean().item() == pytest.approx(close, abs=0.002)


def test_the_rotation_is_undone():
    data = RingDataModule(3)
    flat = data.unrotated(data.centres)
    torch.testing.assert_close(flat[:, :2], RingDataModule(2).centres, rtol=0, atol=1e-6)
    assert flat[:, 2].abs().max() < 1e-6
    up = torch.tensor([[0.8660254, 0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        data.unrotated(up), torch.tensor([[0.0, 0, 1]], dtype=torch.float64), rtol=0, atol=1e-7
    )
    plane = torch.randn(4, 2)
    assert torch.equal(RingDataModule(2).unrotated(plane), plane)


def test_seeds():
    small = {"count": 100, "test_count": 100, "batch_size": 10}
    first, again, other = (ready(seed=seed, **small) for seed in (1, 1, 2))
    assert torch.equal(first.train_data, again.train_data)
    assert torch.equal(first.test_data, again.test_data)
    assert not torch.equal(first.train_data, other.train_data)
    assert not torch.equal(first.train_data, first.test_data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 4}, "dim=4 must be 2 or 3"),
        ({"count": 0}, "count=0 and test_count=10000 must be at least 1"),
        ({"test_count": -1}, "test_count=-1 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RingDataModule(**arguments)


def test_fewer_points_than_a_batch():
    with pytest.raises(ValueError, match="batch_size=200 must be at most 100"):
        ready(count=100)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_gan_trains_on_points(dim, tmp_path):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, dim))
    critic = nn.Sequential(nn.Linear(dim, 8), nn.ReLU(), nn.Linear(8, 1))
    model = GAN(generator, SequentialCritic(critic, (dim,)), latent_dim=4)
    before = [parameter.clone() for parameter in model.parameters()]
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        max_steps=3,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[SampleGrid(every_n_steps=1), PredictionWriter()],
    )
    data = RingDataModule(dim, count=100, test_count=30, batch_size=20)
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 3
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)
    batches = trainer.predict(model, datamodule=data)
    assert [tuple(batch.shape) for batch in batches] == [(20, dim), (10, dim)]
    pictures = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert pictures[-3:] == [f"step_{step:08d}.png" for step in (1, 2, 3)]
    [written] = np.load(tmp_path / "predictions/samples.npz").values()
    assert np.array_equal(written, torch.cat(batches).numpy())
