import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import CelebADataModule

SPLITS = {"000001.jpg": 0, "000002.jpg": 0, "000003.jpg": 1, "000004.jpg": 2, "000005.jpg": 0}


@pytest.fixture
def root(tmp_path):
    """Three training faces, one of the validation part, one test face, in the real layout."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for name in SPLITS:
        noise = Image.fromarray(rng.integers(256, size=(6, 5, 3), dtype=np.uint8))
        noise.resize((178, 218), Image.Resampling.BICUBIC).save(folder / name, quality=95)
    lines = "".join(f"{name} {split}\n" for name, split in SPLITS.items())
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text(lines)
    return tmp_path


def ready(root):
    data = CelebADataModule(root=root, batch_size=2)
    data.prepare_data()
    data.setup()
    return data


def triangle_weights(i):
    """Weights of output pixel i of 64 over 148 inputs: a triangle of half-width 148 / 64."""
    scale = 148 / 64
    centre = (i + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(148) + 0.5 - centre) / scale)
    return weights / weights.sum()


def test_crop_and_resize(root):
    data = ready(root)
    assert data.train_images.shape == (3, 3, 64, 64)
    assert data.test_images.shape == (1, 3, 64, 64)
    matrix = np.stack([triangle_weights(i) for i in range(64)])
    for images, name, row in (
        (data.train_images, "000001.jpg", 0),
        (data.train_images, "000005.jpg", 2),
        (data.test_images, "000004.jpg", 0),
    ):
        face = np.asarray(Image.open(root / "celeba" / "img_align_celeba" / name)).astype(float)
        small = np.einsum("ih,hwc,jw->cij", matrix, face[40:188, 15:163], matrix)
        assert np.abs(images[row].numpy() - small).max() <= 1.5


def test_decodes_once_and_leaves_only_the_cache(root):
    first = ready(root)
    for path in (root / "celeba" / "img_align_celeba").iterdir():
        path.unlink()
    assert torch.equal(ready(root).train_images, first.train_images)
    assert sorted(path.name for path in (root / "celeba").iterdir()) == [
        "img_align_celeba",
        "img_align_celeba_64.npy",
        "list_eval_partition.txt",
    ]


def test_missing_image_leaves_no_partial_file(root):
    (root / "celeba" / "img_align_celeba" / "000005.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000005\.jpg is missing"):
        ready(root)
    assert sorted(path.name for path in (root / "celeba").iterdir()) == [
        "img_align_celeba",
        "list_eval_partition.txt",
    ]


def test_image_of_another_size(root):
    Image.new("RGB", (64, 64)).save(root / "celeba" / "img_align_celeba" / "000002.jpg")
    with pytest.raises(ValueError, match=r"000002\.jpg is no aligned.*64x64 pixels, expected 178"):
        ready(root)


def test_truncated_image(root):
    path = root / "celeba" / "img_align_celeba" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"000002\.jpg is no aligned CelebA image"):
        ready(root)


def test_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list_eval_partition\.txt is missing"):
        ready(tmp_path)


def test_bad_line(root):
    (root / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 7\n")
    with pytest.raises(ValueError, match=r"line 2: '000002.jpg 7' is not"):
        ready(root)


def test_setup_without_cache(root):
    with pytest.raises(FileNotFoundError, match=r"call prepare_data\(\)"):
        CelebADataModule(root=root, batch_size=2).setup()


def test_stale_or_damaged_cache(root):
    cache = ready(root).cache
    np.save(cache, np.zeros((2, 3, 64, 64), np.uint8))
    with pytest.raises(ValueError, match=r"expected uint8 \(4, 3, 64, 64\)"):
        ready(root)
    cache.write_bytes(cache.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        ready(root)
