"""Folders as they are found: links, files that go away, wide pixels, large images."""

import warnings

import numpy as np
import pytest
from PIL import Image

from lightning_igm.data import ImageFolderDataModule, image_folder

RAMP = np.linspace(0, 255, 64).round().astype(np.uint16)[None].repeat(64, 0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (number * 50,) * 3).save(tmp_path / "a" / f"{number}.png")
    return tmp_path


def module(root, **settings):
    return ImageFolderDataModule(root, **{"size": 8, "batch_size": 1, **settings})


def ready(root, **settings):
    data = module(root, **settings)
    data.prepare_data()
    data.setup()
    return data


def test_loops_of_links_end(root):
    (root / "a" / "up").symlink_to("..")
    assert len(ready(root).train_images) == 3


LOST = {"a link to nothing": "nowhere.png", "a link to itself": "1_.png"}


@pytest.mark.parametrize("target", LOST.values(), ids=LOST)
def test_a_lost_link_is_an_image_that_cannot_be_decoded(root, target):
    (root / "a" / "1_.png").symlink_to(target)
    with pytest.raises(
        (FileNotFoundError, ValueError), match=r"a/1_\.png .*(nothing|cannot be)"
    ) as e:
        ready(root)
    assert "\n" not in str(e.value)
    with pytest.warns(UserWarning, match=r"1 of 4 images cannot be used: .*a/1_\.png"):
        data = ready(root, on_error="skip")
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 50, 100]
    assert data.train_labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("when", ["listed", "decoding"])
def test_a_file_that_vanishes_is_one_that_cannot_be_decoded(root, monkeypatch, when):
    list_images, open_image = image_folder.find_images, image_folder.open_image

    def listed(folder, others=None):
        names = list_images(folder, others)
        (root / "a" / "1.png").unlink(missing_ok=True)
        return names

    def opened(path, *args):
        (root / "a" / "1.png").unlink(missing_ok=True)
        return open_image(path, *args)

    lost = (root / "a" / "1.png").read_bytes()
    if when == "listed":
        monkeypatch.setattr(image_folder, "find_images", listed)
    else:
        monkeypatch.setattr(image_folder, "open_image", opened)
    data = ready(root, on_error="skip")
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 100]
    (root / "a" / "1.png").write_bytes(lost)
    with pytest.raises(FileNotFoundError, match=r"1\.png is missing"):
        ready(root, cache_dir=root / ".other")


def test_files_with_other_endings_are_told_once(root, caplog):
    (root / "a" / "4.heic").touch()
    (root / "notes").touch()
    with caplog.at_level("INFO"):
        ready(root)
    [line] = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert line == (
        f"root='{root}': files left out, which do not end like images: 2 (.heic 1, none 1)"
    )
    for image in (root / "a").glob("*.png"):
        image.unlink()
    with pytest.raises(FileNotFoundError, match=r"put .* files there \(it holds "):
        ready(root)


def test_wide_pixels_are_refused_until_their_bits_are_known(tmp_path):
    Image.fromarray(RAMP * 16).save(tmp_path / "1.png")
    Image.fromarray((RAMP * 16).astype(np.int32)).save(tmp_path / "2.tif")
    with pytest.raises(
        ValueError, match=r"\.(png|tif) cannot .*0 to 4080 .*; set bits=12"
    ) as error:
        ready(tmp_path, channels=1)
    assert "\n" not in str(error.value)
    data = ready(tmp_path, channels=1, bits=12, size=64)
    assert np.array_equal(data.train_images[:, 0], np.stack([RAMP, RAMP]))
    dark = ready(tmp_path, channels=1, bits=16, size=64)
    assert dark.train_images.max() == 15
    assert len(list(tmp_path.glob(".igm_cache/*.npy"))) == 2


def test_large_images_need_a_larger_limit(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 400 would be too many for Pillow.
    with pytest.raises(ValueError, match=r"400 pixels .* max_pixels, which is 399; raise that"):
        ready(root, max_pixels=399)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(ready(root, max_pixels=400).train_images) == 3
    assert not caught
    assert Image.MAX_IMAGE_PIXELS == 100
    Image.new("L", (21, 20)).save(root / "a" / "large.png")
    with pytest.warns(UserWarning, match="1 of 4 images cannot be used: .*large.png.*max_pixels"):
        assert len(ready(root, max_pixels=400, on_error="skip").train_images) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 7}, "bits=7 must be 8 to 31, or None"),
        ({"bits": 32}, "bits=32 must be 8 to 31"),
        ({"max_pixels": 0}, "max_pixels=0 must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **settings)
