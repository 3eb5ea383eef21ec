"""Files of ``predict``: what is in them is what the averaged generator made."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_igm.callbacks import PredictionWriter
from lightning_igm.cli import main
from lightning_igm.data.image_array import read_images
from lightning_igm.metrics.images import to_uint8

GAN = ["--config", "configs/gan/digits.yaml", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    main(["fit", *GAN, f"--run.dir={run}", "--trainer.max_steps=2", "--metrics.every_n_steps=null"])
    return run / "checkpoints/last.ckpt"


def predict(checkpoint, folder, *words):
    cli = main(["predict", *GAN, f"--ckpt_path={checkpoint}", f"--run.dir={folder}", *words])
    return folder / "predictions", cli


def test_pngs_and_the_array_hold_the_same_images(checkpoint, tmp_path):
    pngs, _ = predict(checkpoint, tmp_path / "png", "--predictions.num_samples=70")
    wanted = ["--predictions.num_samples=70", "--predictions.format=npz"]
    folder, cli = predict(checkpoint, tmp_path / "npz", *wanted)
    assert sorted(path.name for path in pngs.iterdir()) == [f"{i:08d}.png" for i in range(70)]
    assert [path.name for path in folder.iterdir()] == ["samples.npz"]
    images = read_images(folder / "samples.npz", "samples")
    assert images.shape == (70, 3, 16, 16)
    for index, image in enumerate(images):
        with Image.open(pngs / f"{index:08d}.png") as png:
            assert np.array_equal(np.asarray(png), image.permute(1, 2, 0).numpy())
    # In the data module's batches of 50, with the averaged weights.
    state = torch.load(checkpoint, weights_only=True)
    average = state["callbacks"]["GeneratorEMA"]["average"]
    cli.model.generator.load_state_dict(average)
    noise = torch.Generator().manual_seed(0)
    made = torch.cat([cli.model.sample(n, noise) for n in (50, 20)])
    assert torch.equal(images, to_uint8(made, (0.0, 1.0)))
    assert cli.trainer.predict_loop.predictions == []


def test_as_many_as_test_images_by_default(checkpoint, tmp_path):
    folder, cli = predict(checkpoint, tmp_path, "--predictions.format=npz")
    assert len(read_images(folder / "samples.npz", "samples")) == len(cli.datamodule.test_data)


def test_another_seed_makes_other_images(checkpoint, tmp_path):
    words = ["--predictions.num_samples=50", "--predictions.format=npz"]
    arrays = []
    for seed in (0, 0, 1):
        folder, _ = predict(
            checkpoint, tmp_path / str(len(arrays)), *words, f"--seed_everything={seed}"
        )
        arrays.append(read_images(folder / "samples.npz", "samples"))
    assert torch.equal(arrays[0], arrays[1])
    assert not torch.equal(arrays[0], arrays[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"format": "jpg"}, "predictions.format.*'jpg'.*png"), ({"num_samples": 0}, "num_samples.*0")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PredictionWriter(**arguments)


def test_without_indices_files_are_numbered_in_turn(tmp_path):
    writer = PredictionWriter()
    data = SimpleNamespace(value_range=(0.0, 1.0), ordered_train_dataloader=list)
    trainer = SimpleNamespace(
        default_root_dir=tmp_path, datamodule=data, world_size=1, global_rank=0
    )
    images = torch.rand(5, 3, 4, 4)
    for batch_idx, batch in enumerate((images[:3], images[3:])):
        writer.write_on_batch_end(trainer, None, batch, None, None, batch_idx, 0)
    names = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert names == [f"{index:08d}.png" for index in range(5)]
