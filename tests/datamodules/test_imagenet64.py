import io
import json
import os
import pickle
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_igm.data import imagenet64
from lightning_igm.data.imagenet64 import ImageNet64DataModule

RNG = np.random.default_rng(0)
WNIDS = ["n01440764", "n01443537", "n02119789"]
TRAIN = [
    *(f"n01440764/n01440764_{number}.JPEG" for number in (10026, 10027, 9)),
    "n01443537/n01443537_2.JPEG",
    *(f"n02119789/n02119789_{number}.JPEG" for number in (1, 3)),
]
VAL = [f"{wnid}/ILSVRC2012_val_{number:08}.JPEG" for number, wnid in enumerate(WNIDS)]


def save(path, size, mode="RGB"):
    """A smooth picture, so that JPEG keeps its colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(RNG.integers(256, size=(7, 8, 3), dtype=np.uint8))
    noise.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, "JPEG", quality=95)


@pytest.fixture
def tree(tmp_path):
    """Original images of three classes, some grey or CMYK, as ImageNet has them."""
    sizes = [(500, 375), (375, 500), (256, 256), (300, 290), (120, 90), (64, 64)]
    modes = ["RGB", "L", "RGB", "CMYK", "RGB", "RGB"]
    for name, size, mode in reversed(list(zip(TRAIN, sizes, modes, strict=True))):
        save(tmp_path / "train" / name, size, mode)
    for name in VAL:
        save(tmp_path / "val" / name, (280, 260))
    return tmp_path


def module(root, **kwargs):
    return ImageNet64DataModule(root, **{"batch_size": 2, **kwargs})


def ready(root, **kwargs):
    data = module(root, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def square(path):
    """The central 256 x 256 pixels once the shorter side has 256."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    return image.crop((left, top, left + 256, top + 256))


def tf1(image):
    """Bilinear interpolation as TensorFlow 1 does it: output i is at input 4 i, fraction 0."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    array = np.asarray(Image.open(file)).astype(float)
    small = np.empty((64, 64, 3))
    for i in range(64):
        for j in range(64):
            y, x = i * 256 / 64, j * 256 / 64
            top, left = int(y), int(x)
            lower, right = min(top + 1, 255), min(left + 1, 255)
            dy, dx = y - top, x - left
            upper_row = array[top, left] * (1 - dx) + array[top, right] * dx
            lower_row = array[lower, left] * (1 - dx) + array[lower, right] * dx
            small[i, j] = upper_row * (1 - dy) + lower_row * dy
    return small.transpose(2, 0, 1)


def antialias(image):
    """A triangle over eight inputs for each output, renormalised at the border."""
    distance = np.abs(np.arange(256)[None] + 0.5 - (np.arange(64)[:, None] + 0.5) * 4) / 4
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(1, keepdims=True)
    return weights @ np.asarray(image).astype(float).transpose(2, 0, 1) @ weights.T


def test_tf1_is_the_default(tree):
    data = module(tree)
    assert data.image_shape == (3, 64, 64)
    data.prepare_data()
    data.setup()
    assert data.value_range == (0.0, 1.0)
    assert data.train_images.shape == (6, 3, 64, 64)
    for row, name in enumerate(TRAIN):
        assert np.array_equal(data.train_images[row], tf1(square(tree / "train" / name)))
    for row, name in enumerate(VAL):
        assert np.array_equal(data.test_images[row], tf1(square(tree / "val" / name)))


def test_links_back_are_no_classes_and_other_files_are_told(tree, caplog):
    names = ready(tree).class_names
    for name, target in (("up", ".."), ("same", ".")):
        (tree / "train" / name).symlink_to(target)
    (tree / "train" / names[0] / "up").symlink_to("..")
    (tree / "train" / names[0] / "1.heic").touch()
    with caplog.at_level("INFO"):
        data = ready(tree, resize="antialias")
    assert data.class_names == names
    assert len(data.train_images) == 6
    [line] = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert line.endswith("train: files left out, which do not end like images: 1 (.heic 1)")


def test_an_image_that_is_a_link_to_nothing(tree):
    (tree / "train" / module(tree)._sources()[0].class_names[0] / "0.JPEG").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"0\.JPEG is a link to nothing"):
        ready(tree)
    with pytest.warns(UserWarning, match=r"1 of 7 images cannot be used: .*0\.JPEG"):
        assert len(ready(tree, on_error="skip").train_images) == 6


def test_antialias(tree):
    data = ready(tree, resize="antialias")
    for row, name in enumerate(TRAIN):
        expected = antialias(square(tree / "train" / name))
        assert np.abs(data.train_images[row].numpy() - expected).max() <= 1.5
    assert len(list((tree / ".igm_cache").glob("*.npy"))) == 2
    ready(tree)
    assert len(list((tree / ".igm_cache").glob("*.npy"))) == 4


def test_labels_of_the_tree(tree):
    data = ready(tree)
    assert data.num_classes == 3
    assert data.class_names == WNIDS
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert data.train_labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert data.test_labels.tolist() == [0, 1, 2]


def test_training_images_serve_again(tree):
    (tree / "val").rename(tree / "validation")
    data = ready(tree)
    assert data.test_images is data.train_images
    assert data.test_labels is data.train_labels


def test_later_starts_look_at_the_class_folders_alone(tree, monkeypatch):
    first = ready(tree)
    looked_at = []

    def scandir(path):
        looked_at.append(os.path.relpath(path, tree))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(imagenet64, "open_image", None)
    again = ready(tree)
    assert torch.equal(again.train_images, first.train_images)
    assert torch.equal(again.train_labels, first.train_labels)
    assert set(looked_at) <= {"train", "val"}


def test_cache_dir_and_other_classes(tree, tmp_path):
    ready(tree, cache_dir=tmp_path / "cache")
    assert not (tree / ".igm_cache").exists()
    for split in ("train", "val"):
        (tree / split / WNIDS[2]).rename(tree / split / "n02119790")
    with pytest.raises(FileNotFoundError, match=r"call prepare_data\(\)"):
        module(tree, cache_dir=tmp_path / "cache").setup()
    assert ready(tree, cache_dir=tmp_path / "cache").class_names[2] == "n02119790"


def spoil(tree):
    for name in (TRAIN[1], TRAIN[4]):
        (tree / "train" / name).write_bytes((tree / "train" / name).read_bytes()[:500])


def test_corrupt_image_is_named(tree):
    spoil(tree)
    with pytest.raises(ValueError, match=r"n01440764_10027\.JPEG cannot be decoded"):
        ready(tree)
    assert list((tree / ".igm_cache").glob("*.npy")) == []


def test_corrupt_images_are_skipped(tree):
    spoil(tree)
    with pytest.warns(UserWarning, match=r"2 of 6 images .*_10027\.JPEG.*n02119789_1\.JPEG"):
        data = ready(tree, on_error="skip")
    assert data.train_labels.tolist() == [0, 0, 1, 2]
    for row, name in enumerate([TRAIN[0], TRAIN[2], TRAIN[3], TRAIN[5]]):
        assert np.array_equal(data.train_images[row], tf1(square(tree / "train" / name)))
    with pytest.raises(ValueError, match="2 of 6 images cannot be used"):
        ready(tree)


def test_class_without_images(tree):
    (tree / "train" / TRAIN[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r"train/n01443537 holds no images, nor do 0 other"):
        ready(tree)


def test_validation_images_in_no_class_folders(tree):
    (tree / "val").rename(tree / "old")
    save(tree / "val" / "ILSVRC2012_val_00000001.JPEG", (64, 64))
    with pytest.raises(FileNotFoundError, match=r"val must hold a folder of \.JPEG files for each"):
        ready(tree)


def test_validation_images_of_other_classes(tree):
    (tree / "val" / WNIDS[1]).rename(tree / "val" / "n99")
    with pytest.raises(ValueError, match=r"val must hold the same .* 2 differ: n01443537, n99"):
        ready(tree)


def test_tree_before_prepare_data(tree):
    with pytest.raises(FileNotFoundError, match=r"call prepare_data\(\)"):
        module(tree).setup()


# Files of downsampled ImageNet, of as many images each.
COUNTS = [3, 2, 4, 2, 2, 2, 2, 2, 2, 5]


def batch(count):
    data = RNG.integers(256, size=(count, 12288), dtype=np.uint8)
    return {"data": data, "labels": RNG.integers(1, 1001, count).tolist(), "mean": np.zeros(12288)}


def write(path, content):
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_bytes(pickle.dumps(content, 3))


def write_batches(root, suffix=""):
    root.mkdir(exist_ok=True)
    batches = [batch(count) for count in COUNTS]
    batches[0]["labels"][:2] = 1, 1000
    for number, content in enumerate(batches, start=1):
        write(root / f"train_data_batch_{number}{suffix}", content)
    return batches


def joined(batches):
    data = np.concatenate([content["data"] for content in batches])
    labels = [label - 1 for content in batches for label in content["labels"]]
    red, green, blue = (data[:, start : start + 4096] for start in (0, 4096, 8192))
    return np.stack([c.reshape(-1, 64, 64) for c in (red, green, blue)], axis=1), labels


@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_arrays(tmp_path, suffix):
    images, labels = joined(write_batches(tmp_path, suffix))
    val = {**batch(3), "labels": np.array([5, 6, 7])}
    write(tmp_path / f"val_data{suffix}", {k: v for k, v in val.items() if k != "mean"})
    data = ready(tmp_path)
    assert np.array_equal(data.train_images, images)
    assert data.train_labels.tolist() == labels
    assert {0, 999} <= set(labels)
    assert np.array_equal(data.test_images, joined([val])[0])
    assert data.test_labels.tolist() == [4, 5, 6]
    assert data.train_labels.dtype == torch.int64
    assert data.num_classes == 1000
    assert data.class_names is None
    assert data.image_shape == (3, 64, 64)


def test_arrays_without_validation(tmp_path):
    write_batches(tmp_path)
    data = ready(tmp_path)
    assert data.test_images is data.train_images
    assert data.test_labels is data.train_labels


def test_arrays_are_read_once_and_one_at_a_time(tmp_path, monkeypatch):
    write_batches(tmp_path)
    alive, real = [], imagenet64.read_pickle

    def read(path):
        assert all(array() is None for array in alive)
        content = real(path)
        alive.append(weakref.ref(content["data"]))
        return content

    monkeypatch.setattr(imagenet64, "read_pickle", read)
    ready(tmp_path)
    assert len(alive) == 10
    ready(tmp_path)
    assert len(alive) == 10
    os.utime(tmp_path / "train_data_batch_3", ns=(10**18, 10**18))
    ready(tmp_path)
    assert len(alive) == 20


def test_interrupted_arrays_leave_nothing(tmp_path):
    batches = write_batches(tmp_path)
    path = tmp_path / "train_data_batch_9"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="train_data_batch_9 is no pickle of arrays"):
        ready(tmp_path)
    assert [p for p in (tmp_path / ".igm_cache").iterdir() if p.suffix != ".lock"] == []
    path.write_bytes(whole)
    assert np.array_equal(ready(tmp_path).train_images, joined(batches)[0])


def test_both_layouts_and_the_tree_counts(tree):
    write_batches(tree)
    assert ready(tree).class_names == WNIDS


BAD = {
    "no data": ({"labels": [1]}, "holds no array named data; replace it"),
    "floats": ({"data": np.zeros((1, 12288)), "labels": [1]}, r"holds float64 \(1, 12288\), exp"),
    "32x32": ({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, r"uint8 \(1, 3072\), exp"),
    "no labels": ({"data": np.zeros((1, 12288), np.uint8)}, "a label from 1 to 1000 for each of 1"),
    "too few": ({"data": np.zeros((2, 12288), np.uint8), "labels": [1]}, "a label from 1 to 1000"),
    "from 0": ({"data": np.zeros((1, 12288), np.uint8), "labels": [0]}, "a label from 1 to 1000"),
    "1001": ({"data": np.zeros((1, 12288), np.uint8), "labels": [1001]}, "a label from 1 to 1000"),
    "text": ({"data": np.zeros((1, 12288), np.uint8), "labels": ["1"]}, "a label from 1 to 1000"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_bad_arrays(tmp_path, kind, suffix):
    content, message = BAD[kind]
    write_batches(tmp_path, suffix)
    write(tmp_path / f"train_data_batch_2{suffix}", content)
    with pytest.raises(ValueError, match=f"train_data_batch_2{suffix} .*{message}") as raised:
        ready(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_truncated_npz(tmp_path, keep):
    write_batches(tmp_path, ".npz")
    path = tmp_path / "train_data_batch_2.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train_data_batch_2\.npz is no complete \.npz") as raised:
        ready(tmp_path)
    assert "\n" not in str(raised.value)


def test_array_of_pickles(tmp_path):
    write_batches(tmp_path, ".npz")
    np.savez(tmp_path / "train_data_batch_2.npz", data=np.array([{}]), labels=[1])
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        ready(tmp_path)


def test_neither_layout(tmp_path):
    message = (
        r"root='.*' must hold train/<class>/\*\.JPEG, or train_data_batch_1 to train_data_batch_10"
        r" of downsampled ImageNet 64x64; put one of them there$"
    )
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=message):
            ready(root)


def test_missing_batches(tmp_path):
    write_batches(tmp_path)
    (tmp_path / "train_data_batch_4").unlink()
    (tmp_path / "train_data_batch_10").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(train_data_batch_4, train_data_batch_10 miss"):
        ready(tmp_path)


def test_empty_tree(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"train must hold a folder of \.JPEG files for each"
    ):
        ready(tmp_path)


def test_cache_that_cannot_be_written(tree):
    (tree / ".igm_cache").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*; data\.cache_dir sets another folder"):
        ready(tree)


def test_description(tree):
    ready(tree)
    about = json.loads(next((tree / ".igm_cache").glob("imagenet64-train-*.json")).read_text())
    assert about["count"] == 6
    assert about["resize"] == "tf1"
    assert about["images_of_classes"] == dict(zip(WNIDS, [3, 1, 2], strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": "box"}, "resize='box' must be 'tf1' or 'antialias'"),
        ({"on_error": ""}, "on_error='' must be 'raise' or 'skip'"),
        ({"seed": -1}, "seed=-1 must not be negative"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        module("none", **arguments)
