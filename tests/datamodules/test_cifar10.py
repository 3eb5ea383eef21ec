import hashlib
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from lightning_igm.data import CIFAR10DataModule

ORIGINALS = "cifar-10-batches-py"
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
TEXTS = [*(f"training batch {i} of 5" for i in range(1, 6)), "testing batch 1 of 1"]


def text(value):
    """A str of Python 2 in a pickle of protocol 2."""
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def batch(label, data, labels):
    """An original file: the pickle that Python 2 and its NumPy wrote."""
    height, width = (b"M" + struct.pack("<H", size) for size in data.shape)
    return b"".join(
        [
            b"\x80\x02}(" + text(b"batch_label") + text(label.encode()),
            text(b"labels") + b"](" + b"".join(b"K" + bytes([value]) for value in labels) + b"e",
            text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01" + height + width + b"\x86",
            b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(data.tobytes()) + b"tb",
            text(b"filenames") + b"](" + text(b"camion_s_000148.png") * len(labels) + b"eu.",
        ]
    )


@pytest.fixture(scope="module")
def content():
    """60,000 images and labels; the last 10,000 are the test images."""
    rng = np.random.default_rng(0)
    images = np.frombuffer(rng.bytes(60_000 * 3072), np.uint8).reshape(-1, 3, 32, 32)
    return images, rng.integers(10, size=60_000, dtype=np.uint8)


@pytest.fixture(scope="module")
def originals(content, tmp_path_factory):
    images, labels = content
    root = tmp_path_factory.mktemp("originals")
    (root / ORIGINALS).mkdir()
    for i, (name, label) in enumerate(zip(NAMES, TEXTS, strict=True)):
        rows = slice(10_000 * i, 10_000 * (i + 1))
        file = batch(label, images[rows].reshape(-1, 3072), labels[rows].tolist())
        (root / ORIGINALS / name).write_bytes(file)
    return root


@pytest.fixture(scope="module")
def arrays(content, tmp_path_factory):
    root = tmp_path_factory.mktemp("arrays")
    (root / "cifar10").mkdir()
    for split, rows in (("train", slice(50_000)), ("test", slice(50_000, None))):
        images, labels = (values[rows] for values in content)
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        np.save(root / "cifar10" / f"{split}_images.npy", images)
        np.save(root / "cifar10" / f"{split}_labels.npy", labels)
    return root


@pytest.fixture(params=["originals", "arrays"])
def root(request):
    return request.getfixturevalue(request.param)


def linked(root, target):
    """The same files again, any of which a test may replace."""
    for folder in root.iterdir():
        (target / folder.name).mkdir()
        for path in folder.iterdir():
            os.link(path, target / folder.name / path.name)
    return target


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def ready(root, **kwargs):
    data = CIFAR10DataModule(root=root, **{"download": False, **kwargs})
    data.prepare_data()
    data.setup()
    return data


def test_images_and_labels(root, content):
    images, labels = map(torch.from_numpy, (content[0].copy(), content[1].astype(np.int64)))
    data = ready(root)
    assert data.value_range == (-1.0, 1.0)
    assert data.image_shape == (3, 32, 32)
    assert torch.equal(data.train_images, images[:50_000])
    assert torch.equal(data.test_images, images[50_000:])
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert torch.equal(data.train_labels, labels[:50_000])
    assert torch.equal(data.test_labels, labels[50_000:])
    loader = data.train_dataloader()
    batch = next(iter(loader))
    assert batch.is_contiguous()
    assert torch.equal(batch, images[next(iter(loader.sampler))])
    first = next(iter(data.test_dataloader()))
    assert first.is_contiguous()
    assert torch.equal(first, images[50_000:50_200])


def test_images_are_contiguous(arrays):
    data = ready(arrays)
    for images in (data.train_images, data.test_images):
        assert images.is_contiguous()


def test_pooled(root, content):
    images, labels = content
    data = ready(root, pool=True)
    order = np.arange(60_000)
    np.random.RandomState(547).shuffle(order)
    assert order[:4].tolist() == [3261, 12148, 42185, 18956]
    assert np.array_equal(data.train_images.numpy(), images[order])
    assert data.train_labels.tolist() == labels[order].tolist()
    assert data.test_images is data.train_images
    assert data.test_labels is data.train_labels


MEASURE = """
import gc, re, sys
from lightning_igm.data import CIFAR10DataModule

def memory(key):
    return 1024 * int(re.search(rf"{key}:\\s+(\\d+)", open("/proc/self/status").read())[1])

for root in sys.argv[1:]:
    for pool in (False, True):
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")  # The peak begins anew.
        before = memory("VmRSS")
        data = CIFAR10DataModule(root, download=False, pool=pool)
        data.setup()
        for loader in (data.train_dataloader(), data.test_dataloader()):
            for batch in loader:
                pass
        print((memory("VmHWM") - before) / (60_000 * 3072))
        del data, loader, batch
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory(originals, arrays):
    command = [sys.executable, "-c", MEASURE, str(originals), str(arrays)]
    folder = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    growth = [float(line) for line in run.stdout.split()]
    assert len(growth) == 4
    assert min(growth) > 0.9
    # Of the pickles one of six at a time is there twice; all of them would be 2.
    assert max(growth) < 1.5


SMALL = np.zeros((4, 3072), np.uint8)
WHOLE = np.zeros((10_000, 3072), np.uint8)


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (batch(TEXTS[1], SMALL, [0] * 4), "holds b'training batch 2 of 5', expected 'training ba"),
        (batch(TEXTS[0], SMALL, [0] * 4), r"holds uint8 \(4, 3072\), expected data of uint8 \(100"),
        (batch(TEXTS[0], WHOLE, [0] * 9_999), "must hold 10000 labels from 0 to 9"),
        (batch(TEXTS[0], WHOLE, [0] * 9_999 + [10]), "must hold 10000 labels from 0 to 9"),
        (
            batch(TEXTS[0], WHOLE, [0] * 10_000).replace(b"labels", b"colors", 1),
            "must hold 10000 labels from 0 to 9",
        ),
        (batch(TEXTS[0], WHOLE, [0] * 10_000)[:-1], "is no pickle of arrays"),
        (batch(TEXTS[0], WHOLE, [0] * 10_000)[:5_000_000], "is no pickle of arrays"),
        (b"\x80\x02}.", "holds NoneType, expected data of uint8"),
        (
            b"\x80\x02cos\nsystem\n" + text(b"false") + b"\x85R.",
            "is no pickle of arrays .*os.system",
        ),
        (b"", "is no pickle of arrays"),
    ],
)
def test_wrong_original(originals, tmp_path, replacement, message):
    replace(linked(originals, tmp_path) / ORIGINALS / "data_batch_1", replacement)
    with pytest.raises(ValueError, match=f"data_batch_1 {message}") as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)


def test_swapped_test_file(originals, tmp_path):
    folder = linked(originals, tmp_path) / ORIGINALS
    (folder / "test_batch").unlink()
    os.link(folder / "data_batch_5", folder / "test_batch")
    with pytest.raises(
        ValueError, match=r"test_batch holds b'training batch 5 of 5', expected 'te"
    ):
        ready(tmp_path)


def test_batch_without_its_text(originals, tmp_path, content):
    folder = linked(originals, tmp_path) / ORIGINALS
    file = (folder / "test_batch").read_bytes()
    replace(folder / "test_batch", file.replace(b"batch_label", b"other_label", 1))
    assert np.array_equal(ready(tmp_path).test_images.numpy(), content[0][50_000:])


def saved(path, array):
    path.unlink()
    np.save(path, array)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train_images", np.zeros((4, 32, 32, 3), np.uint8), r"holds 4 images \(3, 32, 32\), exp"),
        ("test_images", np.zeros((10_000, 28, 28), np.uint8), r"holds 10000 images \(1, 28, 28\)"),
        ("test_images", np.zeros((4, 32, 32, 3), np.float32), "holds float32 values"),
        ("train_labels", np.zeros(10_000, np.uint8), "must hold 50000 labels from 0 to 9"),
        ("test_labels", np.full(10_000, 10), "must hold 10000 labels from 0 to 9"),
        ("test_labels", np.full(10_000, -1), "must hold 10000 labels from 0 to 9"),
        ("test_labels", np.zeros((10_000, 1), np.uint8), "must hold 10000 labels from 0 to 9"),
        ("test_labels", np.zeros(10_000), "must hold 10000 labels from 0 to 9"),
        ("test_labels", np.array([{}] * 10_000), r"is no complete \.npy"),
    ],
)
def test_wrong_array(arrays, tmp_path, name, array, message):
    saved(linked(arrays, tmp_path) / "cifar10" / f"{name}.npy", array)
    for pool in (False, True):
        with pytest.raises(ValueError, match=rf"{name}\.npy {message}"):
            ready(tmp_path, pool=pool)


def test_originals_before_arrays(originals, arrays, tmp_path):
    linked(arrays, tmp_path)
    linked(originals, tmp_path)
    (tmp_path / "cifar10" / "train_labels.npy").unlink()
    ready(tmp_path)
    np.save(tmp_path / "cifar10" / "train_labels.npy", np.zeros(1))
    ready(tmp_path)


@pytest.mark.parametrize("download", [False, True])
def test_missing_file(originals, tmp_path, download):
    # An incomplete folder is somebody's: it is not downloaded over.
    (linked(originals, tmp_path) / ORIGINALS / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"batches-py must hold data_batch_3, or") as error:
        CIFAR10DataModule(root=tmp_path, download=download).prepare_data()
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="must hold data_batch_3, or"):
        CIFAR10DataModule(root=tmp_path, download=download).setup()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive that torchvision is told to fetch instead, from where no network is needed."""
    folder = tmp_path / "server" / ORIGINALS
    folder.mkdir(parents=True)
    for name in [*NAMES, "batches.meta", "readme.html"]:
        (folder / name).write_text(name)
    path = tmp_path / "server" / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, ORIGINALS)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda _, to: copy(path, to))
    monkeypatch.setattr(CIFAR10, "url", path.as_uri())
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_download(tmp_path, archive):
    root = tmp_path / "new" / "data"
    for _ in range(2):
        CIFAR10DataModule(root=root).prepare_data()
        assert [path.name for path in root.iterdir()] == [ORIGINALS]
        assert (root / ORIGINALS / "test_batch").read_text() == "test_batch"
        archive.unlink(missing_ok=True)


def test_no_download_of_what_is_there(root, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "file:///nowhere.tar.gz")
    CIFAR10DataModule(root=root).prepare_data()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"damaged", "not found or corrupted")]
)
def test_failed_download(tmp_path, archive, content, reason):
    archive.unlink() if content is None else archive.write_bytes(content)
    root = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match=f"download of CIFAR-10 failed.*{reason}") as error:
        CIFAR10DataModule(root=root).prepare_data()
    assert "\n" not in str(error.value)
    assert list(root.iterdir()) == []


def test_no_download_when_it_is_off(tmp_path, archive):
    with pytest.raises(FileNotFoundError, match="must hold data_batch_1, data_batch_2"):
        CIFAR10DataModule(root=tmp_path / "data", download=False).prepare_data()
    assert not (tmp_path / "data").exists()
