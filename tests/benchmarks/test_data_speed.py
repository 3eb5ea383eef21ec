"""Images per second of the data modules beside datasets that make one image at a time.

Both sides end at a batch of 200 floats on the CPU, in one process without workers.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timing import interleaved, median_ratio, peak_memory, report
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CIFAR10, MNIST
from torchvision.transforms import v2

from lightning_igm.data import CIFAR10DataModule, ColorMNISTDataModule, StackedMNISTDataModule
from lightning_igm.data.color import colorize_float

pytestmark = pytest.mark.slow
BATCH = 200
TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
IDX = {"train-images-idx3-ubyte": (60_000, 28, 28), "t10k-images-idx3-ubyte": (10_000, 28, 28)}
IDX |= {"train-labels-idx1-ubyte": (60_000,), "t10k-labels-idx1-ubyte": (10_000,)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Random images of the real sizes: CIFAR-10's as arrays, MNIST's as idx files."""
    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder)
    rng = np.random.default_rng(0)
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for name, shape in IDX.items():
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        values = rng.integers(10 if len(shape) == 1 else 256, size=shape, dtype=np.uint8)
        (folder / "MNIST" / "raw" / name).write_bytes(header + values.tobytes())
    return folder


def write_cifar10(folder):
    rng = np.random.default_rng(0)
    (folder / "cifar10").mkdir()
    for split, count in (("train", 50_000), ("test", 10_000)):
        images = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        np.save(folder / "cifar10" / f"{split}_images.npy", images)
        np.save(folder / "cifar10" / f"{split}_labels.npy", np.zeros(count, np.uint8))


def compare(record_property, name, data, items):
    """Of both, the same number of batches; ours counts with its conversion to floats."""
    data.prepare_data()
    data.setup()
    batches = 20

    def ours():
        for _, batch in zip(range(batches), data.train_dataloader(), strict=False):
            assert data.on_after_batch_transfer(batch, 0).dtype == torch.float32

    def per_item():
        loader = DataLoader(items, batch_size=BATCH, shuffle=True, generator=torch.Generator())
        for _, batch in zip(range(batches), loader, strict=False):
            assert batch[0].dtype == torch.float32

    rounds = interleaved({"ours": ours, "items": per_item}, rounds=3)
    ratio = median_ratio(rounds, lambda seconds: seconds["items"] / seconds["ours"])
    report(record_property, f"{name}: images per second, ours / per item", ratio, at_least=20)


def test_cifar10(root, record_property):
    items = CIFAR10.__new__(CIFAR10)  # Its files' checksums are not those of random images.
    items.data = np.load(root / "cifar10" / "train_images.npy")
    items.targets = [0] * len(items.data)
    items.transform, items.target_transform = TO_FLOAT, None
    data = CIFAR10DataModule(root=root, batch_size=BATCH, value_range=(0, 1))
    compare(record_property, "CIFAR-10", data, items)


class ColorItems(Dataset):
    """Torchvision's MNIST, an image at a time through Pillow, in a fresh colour."""

    def __init__(self, root):
        pad = v2.Compose([v2.Pad(2), TO_FLOAT])
        self.digits = MNIST(root, transform=pad)
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        image, label = self.digits[index]
        return colorize_float(image.unsqueeze(0), self.generator)[0], label


def test_color_mnist(root, record_property):
    data = ColorMNISTDataModule(root=root, batch_size=BATCH)
    compare(record_property, "Color MNIST", data, ColorItems(root))


class StackedItems(Dataset):
    """Three of torchvision's digits, through Pillow, in three channels."""

    def __init__(self, root):
        self.digits = MNIST(root, transform=v2.Compose([v2.Pad(2), TO_FLOAT]))
        generator = torch.Generator().manual_seed(0)
        self.triples = torch.randint(len(self.digits), (128_000, 3), generator=generator)

    def __len__(self):
        return len(self.triples)

    def __getitem__(self, index):
        images, labels = zip(*(self.digits[i] for i in self.triples[index].tolist()), strict=True)
        return torch.cat(images), labels[0]


def test_stacked_mnist(root, record_property):
    data = StackedMNISTDataModule(root=root, batch_size=BATCH)
    compare(record_property, "Stacked MNIST", data, StackedItems(root))


def prepare(folder):
    """A run's life with the data: load, an epoch of batches, the ordered pass, evaluation."""

    def run():
        data = CIFAR10DataModule(root=folder, batch_size=BATCH)
        data.prepare_data()
        data.setup()
        for loader in (
            data.train_dataloader(),
            data.ordered_train_dataloader(),
            data.test_dataloader(),
        ):
            for batch in loader:
                data.on_after_batch_transfer(batch, 0)

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_cifar10_is_little_more_than_its_bytes(root, record_property):
    peak = peak_memory(Path(__file__).stem, str(root))
    report(record_property, "CIFAR-10: peak memory / its bytes", peak / 184_320_000, at_most=1.2)
