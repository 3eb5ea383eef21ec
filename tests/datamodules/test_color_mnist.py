import math

import numpy as np
import pytest
import torch
from mnist_files import random_digits, write_mnist
from torchvision.datasets import MNIST

from lightning_igm.data import mnist
from lightning_igm.data.color_mnist import ColorMNISTDataModule


def files(folder, monkeypatch, images):
    monkeypatch.setattr(mnist, "_SHAPES", write_mnist(folder, images))
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    return files(tmp_path, monkeypatch, random_digits(60, 20))


def ready(root, **kwargs):
    data = ColorMNISTDataModule(root=root, batch_size=20, download=False, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def unit(images):
    return images.double() / 255


@pytest.mark.parametrize("size", [28, 32])
def test_images_and_labels(root, size):
    data = ready(root, size=size, noise=0.0)
    assert data.image_shape == (3, size, size)
    assert data.train_images.shape == (60, 3, size, size)
    assert data.test_images.shape == (20, 3, size, size)
    assert data.train_images.dtype == torch.uint8
    reference = MNIST(str(root), train=True, download=False)
    assert torch.equal(data.train_labels, reference.targets)
    assert torch.equal(data.test_labels, MNIST(str(root), train=False).targets)
    # A channel without noise grows with the grey level, so it vanishes where the digit does.
    pad = (size - 28) // 2
    inner = data.train_images[:, :, pad : size - pad, pad : size - pad]
    assert (inner * (reference.data == 0).unsqueeze(1)).max() == 0
    assert data.train_images.sum() == inner.sum()


def bars(count):
    """Digits of a kind: an upright bar of random grey and place; half of them white."""
    rng = np.random.default_rng(0)
    digits = np.zeros((count, 28, 28), np.uint8)
    for digit in digits:
        left = rng.integers(4, 20)
        digit[4:24, left : left + 4] = rng.choice([255, rng.integers(1, 255)])
    return digits


def expected(grey, noise=0.2):
    """Mean, s.d., share of zeros and of ones of clip(x), x = I C + I - 1 + noise, over pixels."""
    total = np.zeros(4)
    for level, count in zip(*np.unique(grey, return_counts=True), strict=True):
        share = level / 255
        mean, std = share / 2, math.hypot(share * 0.5, noise) / 2
        x = np.linspace(mean - 8 * std, mean + 8 * std, 20_001)
        density = np.exp(-0.5 * ((x - mean) / std) ** 2)
        density /= density.sum()
        image = x.clip(0, 1)
        moments = image @ density, image**2 @ density, (x <= 0) @ density, (x >= 1) @ density
        total += count / grey.size * np.array(moments)
    return total[0], math.sqrt(total[1] - total[0] ** 2), total[2], total[3]


def test_statistics_of_the_images(tmp_path, monkeypatch):
    digits = bars(4000)
    data = ready(files(tmp_path, monkeypatch, {"train": digits, "t10k": digits[:20]}))
    images = unit(data.train_images)
    mean, std, zeros, ones = expected(np.pad(digits, ((0, 0), (2, 2), (2, 2))))
    assert images.mean().item() == pytest.approx(mean, abs=0.001)
    assert images.std().item() == pytest.approx(std, abs=0.001)
    assert (images == 0).double().mean().item() == pytest.approx(zeros, abs=0.001)
    assert (images == 1).double().mean().item() == pytest.approx(ones, abs=0.0003)
    for background in (images[:, :, 0], images[:, :, :, -1], images[:, :, :6]):
        assert background.mean().item() == pytest.approx(0.040, abs=0.003)
        assert background.std().item() == pytest.approx(0.058, abs=0.003)
        assert (background == 0).double().mean().item() == pytest.approx(0.5, abs=0.003)


def test_statistics_of_the_colors(tmp_path, monkeypatch):
    white = np.full((6000, 28, 28), 255, np.uint8)
    root = files(tmp_path, monkeypatch, {"train": white, "t10k": white[:20]})
    images = unit(ready(root, size=28, noise=0.0).train_images)
    colors = images[:, :, 0, 0]
    assert (images == colors[:, :, None, None]).all()
    # (1 + C) / 2 clipped, C ~ N(0, 0.5), in each channel by itself.
    assert colors.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert colors.std(0).tolist() == pytest.approx([0.240] * 3, abs=0.007)
    assert (torch.corrcoef(colors.T) - torch.eye(3)).abs().max() < 0.04


def test_same_seed_same_bytes(root):
    first, again, other = ready(root, seed=1), ready(root, seed=1), ready(root, seed=2)
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.test_images, again.test_images)
    assert not torch.equal(first.train_images, other.train_images)


def test_test_images_have_draws_of_their_own(tmp_path, monkeypatch):
    digits = random_digits(20, 0)["train"]
    data = ready(files(tmp_path, monkeypatch, {"train": digits, "t10k": digits}))
    assert not torch.equal(data.train_images, data.test_images)


def test_missing_file(root):
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="MNIST/raw must hold t10k-labels-idx1-ubyte"):
        ready(root)


def test_bad_arguments():
    with pytest.raises(ValueError, match="size=64 must be 28 or 32"):
        ColorMNISTDataModule(size=64)
    with pytest.raises(ValueError, match=r"noise=-1\.0 must be"):
        ColorMNISTDataModule(noise=-1.0)
