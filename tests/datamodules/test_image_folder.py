import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_igm.data import cache
from lightning_igm.data.image_folder import ImageFolderDataModule

RNG = np.random.default_rng(0)
CAT, DOG, EEL = "cat/2.PNG", "dog/a/b/10.jpeg", "eel/1.bmp"
FILES = ["cat/1.png", CAT, DOG, "dog/z.tiff", EEL]


def save(path, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """Five images of three classes, in the reverse of their order, among other files."""
    root = tmp_path / "animals"
    for name in reversed(FILES):
        save(root / name)
    for name in ("notes.txt", "cat/.hidden.png", ".trash/x.png", "cat/jpg", "dog/1.png.part"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    return root


def module(root, **kwargs):
    return ImageFolderDataModule(root, **{"size": 6, "batch_size": 1, **kwargs})


def ready(root, **kwargs):
    data = module(root, **kwargs)
    data.prepare_data()
    data.setup()
    return data


def reference(path, size, channels=3):
    """Scaled by Pillow so that the shorter side fits, and the middle cut out."""
    with Image.open(path) as opened:
        image = opened.convert("RGB" if channels == 3 else "L")
    scale = size / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    array = np.asarray(image).reshape(image.height, image.width, channels)
    top, left = (image.height - size) // 2, (image.width - size) // 2
    return array[top : top + size, left : left + size].transpose(2, 0, 1)


def arrays(folder):
    return sorted(path.name for path in folder.glob("*.npy"))


@pytest.mark.parametrize("size", [6, 9, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_the_order_of_their_names(root, size, channels):
    data = module(root, size=size, channels=channels)
    assert data.image_shape == (channels, size, size)
    data.prepare_data()
    data.setup()
    expected = np.stack([reference(root / name, size, channels) for name in FILES])
    assert np.array_equal(data.train_images, expected)
    assert data.test_images is data.train_images
    assert data.image_shape == (channels, size, size)
    assert data.value_range == (-1.0, 1.0)


def test_labels_are_the_folders_of_the_first_level(root):
    data = ready(root)
    assert data.num_classes == 3
    assert data.class_names == ["cat", "dog", "eel"]
    assert data.train_labels.dtype == torch.int64
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 0, 1, 1, 2]


def test_one_image_outside_and_there_are_no_labels(root):
    save(root / "dogs.png")
    data = ready(root)
    assert len(data.train_images) == 6
    assert data.num_classes is data.class_names is data.train_labels is data.test_labels is None


def test_folder_that_is_a_link(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "linked").symlink_to(root / "dog")
    save(tmp_path / "other" / "ant" / "1.png")
    data = ready(tmp_path / "other")
    assert data.class_names == ["ant", "linked"]
    assert np.array_equal(data.train_images[1], reference(root / DOG, 6))


def test_test_root(root, tmp_path):
    test = tmp_path / "test"
    for name in ("eel/1.png", "dog/1.png", "cat/1.png", "cat/2.png"):
        save(test / name)
    data = ready(root, test_root=test)
    assert data.test_labels.tolist() == [0, 0, 1, 2]
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2]
    assert np.array_equal(data.test_images[3], reference(test / "eel/1.png", 6))
    assert len(arrays(root / ".igm_cache")) == 2


@pytest.mark.parametrize(
    ("names", "different"),
    [
        (["cat/1.png", "dog/1.png"], "1 differ: eel"),
        (["cat/1.png", "cow/1.png", "dog/1.png", "eel/1.png"], "1 differ: cow"),
        (["cat/1.png", "dog/1.png", "eel/1.png", "1.png"], "3 differ: cat, dog, eel"),
    ],
)
def test_test_root_of_other_classes(root, tmp_path, names, different):
    for name in names:
        save(tmp_path / "test" / name)
    data = module(root, test_root=tmp_path / "test")
    with pytest.raises(ValueError, match=rf"test_root='.*test' must hold the same .*; {different}"):
        data.prepare_data()
    assert not (root / ".igm_cache").exists()


def test_unlabelled_training_images_and_test_images_in_folders(root, tmp_path):
    save(tmp_path / "flat" / "1.png")
    data = ready(tmp_path / "flat", test_root=root)
    assert len(data.test_images) == 5
    assert data.num_classes is data.train_labels is data.test_labels is None


def test_decodes_once(root, monkeypatch):
    first = ready(root)

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr("lightning_igm.data.image_folder.open_image", refuse)
    again = ready(root)
    assert torch.equal(again.train_images, first.train_images)
    assert len(arrays(root / ".igm_cache")) == 1


def test_moved_folder_keeps_its_cache(root, monkeypatch):
    ready(root)
    moved = root.rename(root.with_name("moved"))
    monkeypatch.setattr("lightning_igm.data.image_folder.open_image", None)
    assert len(ready(moved).train_images) == 5


def touch(path):
    os.utime(path, ns=(10**18, 10**18))


def grow(path):
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "another time": lambda root: touch(root / EEL),
    "another size in bytes": lambda root: grow(root / EEL),
    "another name": lambda root: (root / EEL).rename(root / "eel/2.bmp"),
    "one more": lambda root: save(root / "eel/2.bmp"),
    "one less": lambda root: (root / CAT).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_folder_is_decoded_anew(root, change):
    ready(root)
    CHANGES[change](root)
    with pytest.raises(FileNotFoundError, match=r"\.npy is missing; call prepare_data\(\)"):
        module(root).setup()
    data = ready(root)
    assert len(arrays(root / ".igm_cache")) == 2
    assert len(data.train_images) == len(data.train_labels)


@pytest.mark.parametrize("other", [{"size": 5}, {"channels": 1}])
def test_other_preparation_has_another_array(root, other):
    ready(root)
    assert ready(root, **other).train_images.shape[1:] == module(root, **other).image_shape
    assert len(arrays(root / ".igm_cache")) == 2


def test_cache_dir(root, tmp_path):
    ready(root, cache_dir=tmp_path / "a" / "b")
    assert len(arrays(tmp_path / "a" / "b")) == 1
    assert not (root / ".igm_cache").exists()


def spoil(root):
    for name in (CAT, EEL):
        (root / name).write_bytes((root / name).read_bytes()[:60])


def test_corrupt_image_is_named(root):
    spoil(root)
    with pytest.raises(ValueError, match=r"cat/2\.PNG cannot be decoded") as raised:
        ready(root)
    assert "\n" not in str(raised.value)
    assert arrays(root / ".igm_cache") == []


def test_corrupt_images_are_skipped(root):
    spoil(root)
    with pytest.warns(
        UserWarning, match=r"2 of 5 images.*cat/2\.PNG.*eel/1\.bmp.*left out, .*json"
    ):
        data = ready(root, on_error="skip")
    good = [name for name in FILES if name not in (CAT, EEL)]
    expected = np.stack([reference(root / name, 6) for name in good])
    assert np.array_equal(data.train_images, expected)
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 1, 1]
    assert data.num_classes == 3
    about = json.loads(next((root / ".igm_cache").glob("*.json")).read_text())
    assert about["skipped"] == [1, 4]
    names = [str(root / name) for name in (CAT, EEL)]
    assert [r.split(" cannot be decoded")[0] for r in about["reasons"]] == names


def test_array_without_the_corrupt_images_is_refused_where_they_matter(root):
    spoil(root)
    with pytest.warns(UserWarning, match="2 of 5 images"):
        ready(root, on_error="skip")
    with pytest.raises(ValueError, match=r"2 of 5 images cannot be used: .*cat/2\.PNG"):
        ready(root)


def test_nothing_but_corrupt_images(tmp_path):
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(ValueError, match=r"none of the 1 images can be used; .*1\.png cannot be"):
        ready(tmp_path, on_error="skip")


def test_no_images(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root='.*none' must be a folder of images"):
        ready(tmp_path / "none")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"root='.*empty' must hold images; put \.jpg, "):
        ready(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"test_root='.*empty' must hold images"):
        ready(root, test_root=tmp_path / "empty")


def test_cache_that_cannot_be_written(root):
    (root / ".igm_cache").write_text("in the way")
    with pytest.raises(
        OSError, match=r"cache_dir='.*igm_cache'.*data\.cache_dir sets another"
    ) as e:
        ready(root)
    assert "\n" not in str(e.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_root(root, tmp_path):
    root.chmod(0o555)
    with pytest.raises(OSError, match=r"Permission denied.*data\.cache_dir sets another folder"):
        ready(root)
    assert len(ready(root, cache_dir=tmp_path / "cache").train_images) == 5


def test_unreadable_folder_is_no_empty_one(root, monkeypatch):
    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="animals/dog"):
        ready(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size=0 must be at least 1"),
        ({"channels": 4}, "channels=4 must be 1 or 3"),
        ({"on_error": "ignore"}, "on_error='ignore' must be 'raise' or 'skip'"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"value_range": (0, 2)}, r"value_range=\(0, 2\) must be"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **arguments)


def test_damaged_cache(root):
    ready(root)
    path = next((root / ".igm_cache").glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        ready(root)
    assert cache.load_about(path)["count"] == 5


def test_batches(root):
    data = ready(root, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    images = data.on_after_batch_transfer(batch, 0)
    assert images.shape == (2, 3, 6, 6)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < -0.5
    assert 0.5 < images.max() <= 1
