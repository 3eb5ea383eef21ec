import gzip
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from datamodules import ColorMNISTDataModule, color_mnist

COUNTS = {"train": 60, "t10k": 20}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder in the real layout, with random digits, and fewer of them than MNIST has."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    shapes = {}
    for split, count in COUNTS.items():
        for name, shape, levels in (
            (f"{split}-images-idx3-ubyte", (count, 28, 28), 256),
            (f"{split}-labels-idx1-ubyte", (count,), 10),
        ):
            shapes[name] = shape
            values = rng.integers(levels, size=shape, dtype=np.uint8)
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            (folder / name).write_bytes(header + values.tobytes())
    monkeypatch.setattr(color_mnist, "_SHAPES", shapes)
    return tmp_path


def raw(root, name="train-images-idx3-ubyte"):
    return root / "MNIST" / "raw" / name


def module(root, **kwargs):
    return ColorMNISTDataModule(root=root, batch_size=20, **{"download": False, **kwargs})


def ready(root, **kwargs):
    data = module(root, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def one_line(error):
    return "\n" not in str(error.value)


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


def test_padding_carries_noise(root):
    border = ready(root).train_images[:, :, 0]
    assert (border == 0).double().mean().item() == pytest.approx(0.508, abs=0.03)


def test_same_seed_same_bytes_and_other_draws_for_the_test_images(root):
    first, again, other = ready(root, seed=1), ready(root, seed=1), ready(root, seed=2)
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.test_images, again.test_images)
    assert not torch.equal(first.train_images, other.train_images)
    assert not torch.equal(first.train_images[:20, :, 0], first.test_images[:, :, 0])


def test_gzipped_files(root):
    plain = ready(root)
    for path in list((root / "MNIST" / "raw").iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = ready(root, download=True)
    assert torch.equal(packed.train_images, plain.train_images)
    assert torch.equal(packed.test_labels, plain.test_labels)


def test_missing_file(root):
    raw(root).unlink()
    with pytest.raises(FileNotFoundError, match="MNIST/raw must hold train-images-idx3-ubyte") as e:
        module(root).prepare_data()
    assert one_line(e)
    assert "t10k" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="MNIST/raw must hold train-images-idx3-ubyte"):
        module(root).setup()


def test_no_network(root, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    raw(root).unlink()
    with pytest.raises(FileNotFoundError, match=r"download of MNIST failed.*no route to host") as e:
        module(root, download=True).prepare_data()
    assert one_line(e)


def test_truncated_file(root):
    raw(root).write_bytes(raw(root).read_bytes()[:-5])
    with pytest.raises(ValueError, match="images-idx3-ubyte has 47051 bytes, expected 47056") as e:
        ready(root)
    assert one_line(e)


def test_swapped_splits(root):
    content = raw(root, "t10k-images-idx3-ubyte").read_bytes()
    raw(root).write_bytes(content)
    with pytest.raises(
        ValueError, match=r"train-images.* holds 20 x 28 x 28 .*expected 60 x 28 x 28"
    ):
        ready(root)


def test_labels_in_the_place_of_images(root):
    raw(root).write_bytes(raw(root, "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ValueError, match=r"train-images.* holds 60 values, expected 60 x 28 x 28"):
        ready(root)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\x08\x03\0", b"<html>not found</html>"])
def test_not_an_idx_file(root, content):
    raw(root).write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"no idx header of unsigned bytes \({len(content)} bytes"
    ):
        ready(root)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:50], lambda b: b"x" + b])
def test_damaged_gzip(root, damage):
    path = raw(root)
    path.with_name(path.name + ".gz").write_bytes(damage(gzip.compress(path.read_bytes())))
    path.unlink()
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz is no complete gzip file") as e:
        ready(root)
    assert one_line(e)


def test_wrong_size_in_gzip(root):
    path = raw(root)
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes() + b"more"))
    path.unlink()
    with pytest.raises(ValueError, match=r"\.gz has 47060 bytes unpacked, expected 47056"):
        ready(root)


def test_bad_size():
    with pytest.raises(ValueError, match="size=64 must be 28 or 32"):
        ColorMNISTDataModule(size=64)
