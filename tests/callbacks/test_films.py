import os

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_gan import TinyGAN, TinyImages, assert_same_training, fitted_state, tiny_trainer

from lightning_igm import GAN
from lightning_igm.callbacks.ema import GeneratorEMA
from lightning_igm.callbacks.films import Films, between, write_film
from lightning_igm.callbacks.sample_grid import SampleGrid
from lightning_igm.data import RingDataModule
from lightning_igm.networks import MLPCritic, MLPGenerator


def frames(path):
    with Image.open(path) as film:
        for number in range(film.n_frames):
            film.seek(number)
            yield np.array(film.convert("RGB")).astype(int), film.info["duration"]


def png(path, level, size=8):
    Image.new("RGB", (size, size), (level, 0, 0)).save(path)
    return path


def test_the_film_shows_the_grids_in_order(tmp_path):
    grid = SampleGrid(every_n_steps=2, num_samples=4, scale=1)
    fitted_state(tmp_path, grid, Films(frame_ms=100))
    grids = [np.array(Image.open(p)) for p in sorted((tmp_path / "samples").glob("step_*.png"))]
    shown = list(frames(tmp_path / "samples.gif"))
    assert len(shown) == len(grids) == 3
    for (picture, _), expected in zip(shown, grids, strict=True):
        # A film has 256 colours.
        assert np.abs(picture - expected).mean() < 4
    assert [time for _, time in shown] == [100, 100, 800]


def test_interpolations_go_from_one_sample_to_another(tmp_path):
    films = Films(rows=2, columns=3, seed=5)
    model, _, _ = fitted_state(tmp_path, films)
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "interpolations.png")))
    scale = -(-500 // (3 * 4))
    assert picture.shape == (2 * (4 * scale + 2) + 2, 3 * (4 * scale + 2) + 2, 3)
    ends = torch.randn(4, 2, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = (model.eval()(ends) * 255).round().to(torch.uint8)
    cell = 4 * scale + 2
    for index, (row, column) in enumerate([(0, 0), (1, 0), (0, 2), (1, 2)]):
        top, left = row * cell + 2 + scale // 2, column * cell + 2 + scale // 2
        found = picture[top : top + 4 * scale : scale, left : left + 4 * scale : scale]
        assert torch.equal(found.permute(2, 0, 1), expected[index])


@pytest.mark.parametrize("distribution", ["normal", "uniform", "unit_uniform"])
def test_latents_of_a_cube_are_joined_by_lines(tmp_path, distribution):
    model, seen = TinyGAN(), []
    model.latent_distribution = distribution
    model.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trainer = tiny_trainer(tmp_path, Films(rows=1, columns=3), max_steps=2)
    trainer.fit(model, datamodule=TinyImages())
    start, middle, end = seen[-1]
    assert torch.allclose(middle, (start + end) / 2) == (distribution != "normal")


def test_interpolations_are_by_the_averaged_generator(tmp_path):
    pictures = []
    for decay in (None, 0.9):
        folder = tmp_path / str(decay)
        fitted_state(folder, Films(rows=1), GeneratorEMA(decay=decay))
        pictures.append((folder / "interpolations.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_training_does_not_change_by_a_bit(tmp_path):
    plain = fitted_state(tmp_path / "plain")
    assert_same_training(plain, fitted_state(tmp_path / "films", Films(rows=2)))


def test_either_can_be_left_out(tmp_path):
    grid = SampleGrid(every_n_steps=2, num_samples=4, scale=1)
    fitted_state(tmp_path, Films(rows=0, most_frames=0), grid)
    assert sorted(os.listdir(tmp_path)) == ["samples"]


def test_points_have_a_film_alone(tmp_path):
    model = GAN(MLPGenerator(latent_dim=2, hidden=(4,)), MLPCritic(hidden=(4,)))
    callbacks = Films(), SampleGrid(every_n_steps=2, num_points=20)
    trainer = tiny_trainer(tmp_path, *callbacks, max_steps=4)
    trainer.fit(model, datamodule=RingDataModule(count=200, test_count=40, batch_size=20))
    assert sorted(os.listdir(tmp_path)) == ["samples", "samples.gif"]
    assert len(list(frames(tmp_path / "samples.gif"))) == 2


def test_a_continued_run_shows_the_grids_of_both_parts(tmp_path):
    model, data = TinyGAN(), TinyImages()
    for steps in (2, 4):
        grid = SampleGrid(every_n_steps=1, num_samples=4, scale=1)
        trainer = tiny_trainer(tmp_path, Films(rows=0), grid, max_steps=steps)
        trainer.fit(model, datamodule=data, ckpt_path=None if steps == 2 else tmp_path / "a.ckpt")
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert len(list(frames(tmp_path / "samples.gif"))) == 4


def test_long_runs_have_evenly_chosen_frames_and_the_last(tmp_path):
    pictures = [png(tmp_path / f"{n}.png", 20 * n) for n in range(11)]
    write_film(pictures, tmp_path / "film.gif", most_frames=3, frame_ms=50)
    levels = [picture[0, 0, 0] for picture, _ in frames(tmp_path / "film.gif")]
    assert np.allclose(levels, [0, 100, 200], atol=3)


def test_damaged_and_odd_pictures_are_left_out(tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(png(tmp_path / "whole.png", 90).read_bytes()[:40])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    odd = png(tmp_path / "odd.png", 200, size=9)
    pictures = [odd, damaged, text, png(tmp_path / "a.png", 40), png(tmp_path / "b.png", 160)]
    write_film(pictures, tmp_path / "film.gif", most_frames=60, frame_ms=50)
    levels = [picture[0, 0, 0] for picture, _ in frames(tmp_path / "film.gif")]
    assert np.allclose(levels, [40, 160], atol=3)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_make_no_film(tmp_path, count):
    pictures = [png(tmp_path / f"{n}.png", 99) for n in range(count)]
    write_film(pictures, tmp_path / "film.gif", most_frames=60, frame_ms=50)
    assert not (tmp_path / "film.gif").exists()


def test_ways_between_latents():
    starts, ends = torch.randn(2, 20_000, 3, generator=torch.Generator().manual_seed(0))
    arc, line = (between(starts, ends, 5, straight=straight) for straight in (False, True))
    for way in (arc, line):
        assert torch.equal(way[:, 0], starts)
        assert torch.equal(way[:, -1], ends)
    assert torch.allclose(arc.std((0, 2)), torch.ones(5), atol=0.02)
    assert line[:, 2].std() < 0.75


@pytest.mark.parametrize(
    "argument", [{"rows": -1}, {"columns": 0}, {"most_frames": -1}, {"frame_ms": 0}]
)
def test_numbers_out_of_range_are_refused(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=rf"films\.{name}: .* is not allowed"):
        Films(**argument)
