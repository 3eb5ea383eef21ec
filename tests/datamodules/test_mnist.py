import gzip
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from mnist_files import random_digits, write_mnist
from torchvision.datasets import MNIST

from lightning_igm.data import mnist
from lightning_igm.data.mnist import MNISTDataModule

DOWNLOAD = "torchvision.datasets.mnist.download_and_extract_archive"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_SHAPES", write_mnist(tmp_path, random_digits(60, 20)))
    return tmp_path


def raw(root, name="train-images-idx3-ubyte"):
    return root / "MNIST" / "raw" / name


def module(root, **kwargs):
    return MNISTDataModule(root=root, **{"download": False, "batch_size": 20, **kwargs})


def ready(root, **kwargs):
    data = module(root, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def one_line(error):
    return "\n" not in str(error.value)


def everything_below(root):
    return {
        path.relative_to(root): path.is_file() and path.read_bytes() for path in root.rglob("*")
    }


@pytest.mark.parametrize("size", [28, 32])
def test_images_and_labels(root, size):
    assert module(root, size=size).image_shape == (1, size, size)
    data = ready(root, size=size)
    border = (size - 28) // 2
    for images, labels, train in (
        (data.train_images, data.train_labels, True),
        (data.test_images, data.test_labels, False),
    ):
        reference = MNIST(str(root), train=train)
        assert images.dtype == torch.uint8
        assert images.shape == (len(reference.data), 1, size, size)
        inner = images[:, 0, border : border + 28, border : border + 28]
        assert torch.equal(inner, reference.data)
        assert images.long().sum() == inner.long().sum()
        assert torch.equal(labels, reference.targets)
        assert labels.dtype == torch.int64


def test_pooled(root):
    data, parts = ready(root, pool=True), ready(root)
    assert data.train_images.shape == (80, 1, 28, 28)
    assert torch.equal(data.train_images[:60], parts.train_images)
    assert torch.equal(data.train_images[60:], parts.test_images)
    assert torch.equal(data.train_labels[:60], parts.train_labels)
    assert torch.equal(data.train_labels[60:], parts.test_labels)
    assert data.test_images is data.train_images
    assert data.test_labels is data.train_labels


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


def test_download_adds_what_is_missing_and_nothing_else(root, monkeypatch, tmp_path_factory):
    originals = {name: raw(root, name).read_bytes() for name in mnist._SHAPES}

    def download(url, download_root, filename, md5):
        name = filename.removesuffix(".gz")
        (Path(download_root) / filename).write_bytes(gzip.compress(originals[name]))
        (Path(download_root) / name).write_bytes(originals[name])

    monkeypatch.setattr(DOWNLOAD, download)
    raw(root).unlink()
    own = gzip.compress(originals["t10k-labels-idx1-ubyte"], 1)
    raw(root, "t10k-labels-idx1-ubyte").unlink()
    raw(root, "t10k-labels-idx1-ubyte.gz").write_bytes(own)
    before = everything_below(root)
    module(root, download=True).prepare_data()
    assert everything_below(root) == before | {
        Path("MNIST/raw/train-images-idx3-ubyte"): originals["train-images-idx3-ubyte"]
    }
    fresh = tmp_path_factory.mktemp("elsewhere") / "deep"
    assert torch.equal(ready(fresh, download=True).train_images, ready(root).train_images)
    assert [path.name for path in fresh.iterdir()] == ["MNIST"]


def test_interrupted_download_leaves_nothing(root, monkeypatch):
    def interrupted(url, download_root, filename, md5):
        (Path(download_root) / filename).write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(DOWNLOAD, interrupted)
    raw(root).unlink()
    before = everything_below(root)
    with pytest.raises(KeyboardInterrupt):
        module(root, download=True).prepare_data()
    assert everything_below(root) == before


def test_no_network(root, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no route\nto host")

    monkeypatch.setattr(DOWNLOAD, unreachable)
    raw(root).unlink()
    with pytest.raises(FileNotFoundError, match=r"download of MNIST failed.*no route to host") as e:
        module(root, download=True).prepare_data()
    assert one_line(e)


def test_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"root='.*file/data': the download.*failed") as e:
        module(tmp_path / "file" / "data", download=True).prepare_data()
    assert one_line(e)


def test_truncated_file(root):
    raw(root).write_bytes(raw(root).read_bytes()[:-5])
    with pytest.raises(ValueError, match="images-idx3-ubyte has 47051 bytes, expected 47056") as e:
        ready(root)
    assert one_line(e)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "train-images-idx3",
            "t10k-images-idx3",
            r"train-images-idx3-ubyte holds 20 x 28 x 28 values, expected 60 x 28 x 28;",
        ),
        (
            "train-labels-idx1",
            "t10k-labels-idx1",
            r"train-labels-idx1-ubyte holds 20 values, expected 60;",
        ),
        (
            "train-labels-idx1",
            "train-images-idx3",
            r"train-images-idx3-ubyte holds 60 values, expected 60 x 28 x 28;",
        ),
        (
            "t10k-labels-idx1",
            "t10k-images-idx3",
            r"t10k-images-idx3-ubyte holds 20 values, expected 20 x 28 x 28;",
        ),
    ],
)
def test_swapped_files(root, first, second, message):
    one, other = raw(root, f"{first}-ubyte"), raw(root, f"{second}-ubyte")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(ValueError, match=message) as e:
        ready(root)
    assert one_line(e)


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
        MNISTDataModule(size=64)
