import hashlib
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from datamodules import CIFAR10DataModule


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Generated batch files in the real layout; torchvision is told their checksums."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch():
        return {
            "data": rng.integers(256, size=(4, 3072), dtype=np.uint8),
            "labels": rng.integers(10, size=4).tolist(),
        }

    train = [write(f"data_batch_{i}", batch()) for i in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch())])
    name, md5 = write("batches.meta", {"label_names": [str(i) for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return tmp_path


def test_images_and_labels(root):
    data = CIFAR10DataModule(root=root, download=False, batch_size=10)
    data.prepare_data()
    data.setup()
    assert data.value_range == (-1.0, 1.0)
    assert data.train_images.shape == (20, 3, 32, 32)
    assert data.test_images.shape == (4, 3, 32, 32)
    assert data.train_images.is_contiguous()
    folder = root / "cifar-10-batches-py"
    second = pickle.loads((folder / "data_batch_2").read_bytes())
    for i in range(4):
        expected = torch.from_numpy(second["data"][i].reshape(3, 32, 32))
        assert torch.equal(data.train_images[4 + i], expected)
        assert data.train_labels[4 + i] == second["labels"][i]
    assert data.test_labels.dtype == torch.int64


def test_damaged_file(root):
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py must hold the original"):
        CIFAR10DataModule(root=root, download=False).setup()


def test_no_network(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    with pytest.raises(FileNotFoundError, match="no route to host") as error:
        CIFAR10DataModule(root=tmp_path).prepare_data()
    assert "\n" not in str(error.value)
