import pytest
import torch

from lightning_igm.data import DigitsDataModule


def ready(**kwargs):
    data = DigitsDataModule(**kwargs)
    data.setup()
    return data


@pytest.mark.parametrize("size", [8, 9, 16, 28, 32, 33])
def test_shapes(size):
    data = DigitsDataModule(size=size)
    assert data.image_shape == (3, size, size)
    data.setup()
    assert data.train_images.shape == (1797, 3, size, size)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.shape == (1797,)
    assert data.train_labels.unique().tolist() == list(range(data.num_classes))
    assert torch.equal(data.test_images, data.train_images)


def test_original_pixels_at_size_8():
    from sklearn.datasets import load_digits

    images = ready(size=8, noise=0.0).train_images.double() / 255
    original = torch.from_numpy(load_digits().images) / 16
    # Without noise each channel is clip((I C + I) / 2): proportional to I where nothing clips.
    unclipped = (images.amax((2, 3)) < 0.99) & (images.amax((2, 3)) > 0.1)
    scale = images.amax((2, 3)) / original.amax((1, 2))[:, None]
    expected = original[:, None] * scale[..., None, None]
    assert unclipped.double().mean() > 0.7
    assert (images - expected)[unclipped].abs().max() < 1.5 / 255


def test_black_border_of_an_eighth():
    images = ready(size=32, noise=0.0).train_images
    border = torch.ones(32, 32, dtype=torch.bool)
    border[4:28, 4:28] = False
    assert images[:, :, border].max() == 0
    assert images[:, :, ~border].max() == 255


def test_same_seed_same_bytes():
    assert torch.equal(ready(seed=1).train_images, ready(seed=1).train_images)
    assert not torch.equal(ready(seed=1).train_images, ready(seed=2).train_images)


def test_less_noise():
    border = ready(noise=0.1).train_images[:, :, 0].double() / 255
    assert border.std().item() == pytest.approx(0.0292, abs=0.001)


def test_bad_arguments():
    with pytest.raises(ValueError, match="size=7 must be at least 8"):
        DigitsDataModule(size=7)
    with pytest.raises(ValueError, match=r"noise=-1\.0 must be"):
        DigitsDataModule(noise=-1.0)
