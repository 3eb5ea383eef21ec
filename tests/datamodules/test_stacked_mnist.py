import pytest
import torch
from mnist_files import random_digits, write_mnist
from torchvision.datasets import MNIST

from lightning_igm.data import mnist, stacked_mnist
from lightning_igm.data.stacked_mnist import StackedMNISTDataModule


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_SHAPES", write_mnist(tmp_path, random_digits(30, 10)))
    return tmp_path


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(stacked_mnist, "_TRAIN", 2000)
    monkeypatch.setattr(stacked_mnist, "_TEST", 500)


def ready(root, **kwargs):
    data = StackedMNISTDataModule(root=root, batch_size=100, download=False, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def triples(images, digits):
    """The number of the digit in each channel, found by comparing whole channels."""
    numbers = {digit.numpy().tobytes(): number for number, digit in enumerate(digits)}
    return [[numbers[channel.numpy().tobytes()] for channel in image] for image in images]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("size", [28, 32])
def test_a_digit_in_each_channel_and_its_labels(root, size):
    assert StackedMNISTDataModule(size=size).image_shape == (3, size, size)
    data = ready(root, size=size)
    parts = [MNIST(str(root), train=train) for train in (True, False)]
    digits = torch.cat([part.data for part in parts])
    classes = torch.cat([part.targets for part in parts]).tolist()
    pad = (size - 28) // 2
    for images, labels, count in (
        (data.train_images, data.train_labels, 2000),
        (data.test_images, data.test_labels, 500),
    ):
        assert images.shape == (count, 3, size, size)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        inner = images[:, :, pad : size - pad, pad : size - pad].contiguous()
        assert images.long().sum() == inner.long().sum()
        found = triples(inner, digits)
        assert labels.dtype == torch.int64
        assert labels.tolist() == [
            100 * classes[a] + 10 * classes[b] + classes[c] for a, b, c in found
        ]
        # Uniform, with replacement, from both parts, in each channel by itself.
        for channel in zip(*found, strict=True):
            shares = torch.tensor(channel).bincount(minlength=40) / count
            assert (shares - 1 / 40).abs().max() < 5 * (1 / 40 / count) ** 0.5
        for one, other in ((0, 1), (0, 2), (1, 2)):
            same = sum(triple[one] == triple[other] for triple in found) / count
            assert 0 < same < 0.05


def test_128_000_training_and_26_000_test_images(root):
    data = ready(root, size=28)
    assert data.train_images.shape == (128_000, 3, 28, 28)
    assert data.test_images.shape == (26_000, 3, 28, 28)
    assert len(data.train_labels) == 128_000
    assert len(data.test_labels) == 26_000


@pytest.mark.usefixtures("few")
def test_the_list_is_fixed_by_the_seed(root):
    first, again, other = ready(root, seed=1), ready(root, seed=1), ready(root, seed=2)
    before = torch.get_rng_state()
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.test_images, again.test_images)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.train_images, other.train_images)
    assert not torch.equal(first.train_images[:500], first.test_images)


def test_missing_file(root):
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="MNIST/raw must hold t10k-labels-idx1-ubyte"):
        ready(root)


def test_bad_size():
    with pytest.raises(ValueError, match="size=64 must be 28 or 32"):
        StackedMNISTDataModule(size=64)
