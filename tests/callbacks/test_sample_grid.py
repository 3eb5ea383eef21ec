import os

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tiny_gan import TinyGAN, TinyImages, assert_same_training, fitted_state, tiny_trainer

from lightning_igm.callbacks import sample_grid
from lightning_igm.callbacks.ema import GeneratorEMA
from lightning_igm.callbacks.sample_grid import SampleGrid


def read(path):
    return torch.from_numpy(np.array(Image.open(path)))


def slow_grid(images, nrow, scale):
    """Uint8 ``(N, 3, H, W)`` in rows, enlarged pixel by pixel, with two white pixels between."""
    n, _, height, width = images.shape
    columns = min(nrow, n)
    rows = -(-n // columns)
    cell_height, cell_width = height * scale + 2, width * scale + 2
    grid = torch.full((rows * cell_height + 2, columns * cell_width + 2, 3), 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top = index // columns * cell_height + 2
        left = index % columns * cell_width + 2
        for y in range(height * scale):
            for x in range(width * scale):
                grid[top + y, left + x] = image[:, y // scale, x // scale]
    return grid


def quantised(images):
    return (images.double() * 255).round().to(torch.uint8)


def names(folder):
    return sorted(os.listdir(folder / "samples"))


def test_the_pixels_are_those_of_the_generator(tmp_path):
    grid = SampleGrid(every_n_steps=100, num_samples=5, nrow=3, scale=2, seed=4)
    model, _, _ = fitted_state(tmp_path, grid)
    assert names(tmp_path) == ["real.png", "step_00000006.png"]

    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(4))
    model.eval()
    expected = slow_grid(quantised(model(noise).detach()), nrow=3, scale=2)
    # Empty cells of the last row are white too.
    assert torch.equal(read(tmp_path / "samples" / "step_00000006.png"), expected)


def test_the_real_images_are_random_ones_of_all(tmp_path):
    fitted_state(tmp_path, SampleGrid(num_samples=20, nrow=10, scale=1, seed=4))
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(4))[:20]
    assert rows.max() > 30
    expected = slow_grid(TinyImages().images[rows], nrow=10, scale=1)
    assert torch.equal(read(tmp_path / "samples" / "real.png"), expected)


def test_cadence_counts_generator_steps_once(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        sample_grid, "save_png", lambda image, path: written.append((path.name, len(calls)))
    )
    calls = []
    monkeypatch.setattr(
        TinyGAN, "on_train_batch_start", lambda self, batch, batch_idx: calls.append(batch_idx)
    )
    # Epochs of 5 batches, every third one a generator step: 1 step per epoch, at its batch 3.
    fitted_state(tmp_path, SampleGrid(every_n_steps=2), critic_steps=2, max_steps=-1, max_epochs=5)
    assert written == [
        ("real.png", 0),
        ("step_00000002.png", 8),
        ("step_00000004.png", 18),
        ("step_00000005.png", 25),
    ]


def test_the_last_grid_is_not_written_twice(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(sample_grid, "save_png", lambda image, path: written.append(path.name))
    fitted_state(tmp_path, SampleGrid(every_n_steps=3))
    assert written == ["real.png", "step_00000003.png", "step_00000006.png"]


def test_training_does_not_notice(tmp_path):
    with_grids = fitted_state(tmp_path / "grids", SampleGrid(every_n_steps=2, num_samples=16))
    assert_same_training(with_grids, fitted_state(tmp_path / "plain"))


def test_mixed_modes_are_restored_after_an_exception(tmp_path, monkeypatch):
    model = TinyGAN().train()
    model.generator[1].eval()
    modes = [module.training for module in model.modules()]

    def fail(z):
        raise RuntimeError("out of memory")

    grid = SampleGrid(num_samples=4)
    trainer = tiny_trainer(tmp_path, grid, max_steps=0)
    trainer.fit(model, datamodule=TinyImages())
    for child, training in zip(model.modules(), modes, strict=True):
        child.training = training
    grid.on_train_start(trainer, model)
    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        grid._write_samples(trainer, model)
    assert [module.training for module in model.modules()] == modes


def test_grids_show_the_averaged_generator(tmp_path):
    ema = GeneratorEMA(0.9)
    grid = SampleGrid(every_n_steps=100, num_samples=4, scale=1)
    model, _, _ = fitted_state(tmp_path, grid, ema)
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    model.eval()
    with ema.average(model):
        averaged = slow_grid(quantised(model(noise).detach()), nrow=8, scale=1)
    trained = slow_grid(quantised(model(noise).detach()), nrow=8, scale=1)
    shown = read(tmp_path / "samples" / "step_00000006.png")
    assert torch.equal(shown, averaged)
    assert not torch.equal(shown, trained)


def test_a_resumed_run_keeps_the_noise(tmp_path):
    grid = SampleGrid(num_samples=4, seed=1)
    trainer = tiny_trainer(tmp_path, grid, max_steps=2)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]["SampleGrid"]

    # Another seed would draw other noise; the checkpoint's wins.
    resumed = SampleGrid(num_samples=4, seed=2)
    tiny_trainer(tmp_path, resumed, max_steps=4).fit(
        TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt"
    )
    assert torch.equal(resumed.state_dict()["noise"], saved["noise"])
    assert names(tmp_path) == ["real.png", "step_00000002.png", "step_00000004.png"]


def test_another_number_of_samples_draws_new_noise(tmp_path):
    grid = SampleGrid(num_samples=4)
    grid.load_state_dict({"noise": torch.zeros(3, 2)})
    fitted_state(tmp_path, grid)
    assert grid.state_dict()["noise"].shape == (4, 2)


@pytest.mark.parametrize(
    ("size", "num_samples", "nrow", "scale", "expected"),
    [(8, 64, 8, None, 530), (32, 64, 8, None, 530), (128, 64, 8, None, 1042), (8, 2, 8, 3, 54)],
)
def test_small_images_are_enlarged(size, num_samples, nrow, scale, expected):
    grid = SampleGrid(num_samples=num_samples, nrow=nrow, scale=scale)
    picture = grid._grid(torch.zeros(num_samples, 1, size, size, dtype=torch.uint8))
    assert picture.shape[0] == 3
    assert picture.shape[2] == expected


def test_tensorboard_gets_the_grid(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "logs")
    csv = CSVLogger(tmp_path / "csv")
    fitted_state(tmp_path, SampleGrid(every_n_steps=4, num_samples=4), logger=[logger, csv])
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    images = events.Images("samples")
    assert [image.step for image in images] == [4, 6]
    (tmp_path / "logged.png").write_bytes(images[0].encoded_image_string)
    written = read(tmp_path / "samples" / "step_00000004.png")
    assert torch.equal(read(tmp_path / "logged.png"), written)


def test_wandb_gets_uint8_pictures_at_the_step(tmp_path, monkeypatch):
    calls = []

    class FakeWandbLogger(CSVLogger):
        def log_image(self, key, images, step):
            calls.append((key, [image.dtype.name for image in images], images[0].shape[-1], step))

    monkeypatch.setattr(sample_grid, "WandbLogger", FakeWandbLogger)
    fitted_state(
        tmp_path,
        SampleGrid(every_n_steps=3, num_samples=4),
        logger=FakeWandbLogger(tmp_path / "logs"),
    )
    assert calls == [("samples", ["uint8"], 3, 3), ("samples", ["uint8"], 3, 6)]


def test_an_unfinished_file_never_has_the_final_name(tmp_path, monkeypatch):
    def fail(self, path, **settings):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        sample_grid.save_png(torch.zeros(3, 2, 2, dtype=torch.uint8), tmp_path / "step.png")
    assert not (tmp_path / "step.png").exists()


@pytest.mark.parametrize("name", ["every_n_steps", "num_samples", "nrow", "scale"])
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SampleGrid(**{name: 0})
