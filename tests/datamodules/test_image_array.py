import numpy as np
import pytest
import torch

from datamodules import ImageArrayDataModule

RNG = np.random.default_rng(0)
CHANNELS_FIRST = RNG.integers(256, size=(12, 3, 6, 5), dtype=np.uint8)


def ready(*paths, **kwargs):
    data = ImageArrayDataModule(*paths, **{"batch_size": 4, **kwargs})
    data.setup()
    return data


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_channels_first_and_last(tmp_path, axes):
    np.save(tmp_path / "a.npy", CHANNELS_FIRST.transpose(axes))
    data = ready(tmp_path / "a.npy")
    assert data.image_shape == (3, 6, 5)
    assert torch.equal(data.train_images, torch.from_numpy(CHANNELS_FIRST))
    assert torch.equal(data.test_images, data.train_images)


def test_grey_images_in_npz_and_a_test_file(tmp_path):
    np.savez(tmp_path / "a.npz", images=CHANNELS_FIRST[:, 0])
    np.save(tmp_path / "b.npy", CHANNELS_FIRST[:5, 1])
    data = ready(str(tmp_path / "a.npz"), str(tmp_path / "b.npy"))
    assert data.image_shape == (1, 6, 5)
    assert torch.equal(data.train_images[:, 0], torch.from_numpy(CHANNELS_FIRST[:, 0]))
    assert torch.equal(data.test_images[:, 0], torch.from_numpy(CHANNELS_FIRST[:5, 1]))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train='.*none\.npy' is not a file"):
        ready(tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (CHANNELS_FIRST.astype(np.float32), "holds float32 values, expected uint8"),
        (np.zeros((4, 8, 8, 2), np.uint8), r"has shape \(4, 8, 8, 2\), expected"),
        (np.zeros((4, 8), np.uint8), r"has shape \(4, 8\), expected"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"has shape \(0, 8, 8, 3\), expected"),
        (np.array([{}]), "is no complete .npy"),
    ],
)
def test_wrong_content(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message) as error:
        ready(tmp_path / "a.npy")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("keep", [0, 20, -10])
def test_truncated_file(tmp_path, name, keep):
    path = tmp_path / name
    np.save(path, CHANNELS_FIRST) if name == "a.npy" else np.savez(path, CHANNELS_FIRST)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train=.*is no complete \.npy") as error:
        ready(path)
    assert "\n" not in str(error.value)


def test_two_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x=CHANNELS_FIRST, y=np.zeros(12))
    with pytest.raises(ValueError, match="2 arrays: x, y"):
        ready(tmp_path / "a.npz")


def test_shapes_that_differ(tmp_path):
    np.save(tmp_path / "a.npy", CHANNELS_FIRST)
    np.save(tmp_path / "b.npy", CHANNELS_FIRST[:, :1])
    with pytest.raises(ValueError, match=r"test images have shape \(1, 6, 5\)"):
        ready(tmp_path / "a.npy", tmp_path / "b.npy")
