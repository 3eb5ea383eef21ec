import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from lightning_igm.data import ImageArrayDataModule

RNG = np.random.default_rng(0)
CHANNELS_FIRST = RNG.integers(256, size=(12, 3, 6, 5), dtype=np.uint8)


def ready(*paths, **kwargs):
    data = ImageArrayDataModule(*paths, **{"batch_size": 4, **kwargs})
    data.setup()
    return data


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_channels_first_and_last(tmp_path, axes, layout):
    np.save(tmp_path / "a.npy", np.asarray(CHANNELS_FIRST.transpose(axes), order=layout))
    data = ready(tmp_path / "a.npy")
    expected = torch.from_numpy(CHANNELS_FIRST)
    assert data.image_shape == (3, 6, 5)
    assert torch.equal(data.train_images, expected)
    assert data.test_images is data.train_images
    loader = data.train_dataloader()
    batch = next(iter(loader))
    assert batch.is_contiguous()
    assert torch.equal(batch, expected[next(iter(loader.sampler))])
    batches = list(data.test_dataloader())
    assert all(batch.is_contiguous() for batch in batches)
    assert torch.equal(torch.cat(batches), expected)


def test_channels_are_last_where_both_fit(tmp_path):
    np.save(tmp_path / "a.npy", CHANNELS_FIRST[:, :, :, :3])
    data = ready(tmp_path / "a.npy")
    assert data.image_shape == (3, 3, 6)
    assert torch.equal(
        data.train_images, torch.from_numpy(CHANNELS_FIRST[..., :3].transpose(0, 3, 1, 2))
    )


def test_arrays_are_mapped(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, CHANNELS_FIRST.transpose(0, 2, 3, 1))
    data = ready(path)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([255 - last]))
    assert data.train_images[-1, -1, -1, -1] == 255 - last


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_grey_images_in_npz_and_a_test_file(tmp_path, save):
    save(tmp_path / "a.npz", faces=CHANNELS_FIRST[:, 0])
    np.save(tmp_path / "b.npy", CHANNELS_FIRST[:5, 1])
    data = ready(str(tmp_path / "a.npz"), str(tmp_path / "b.npy"))
    assert data.image_shape == (1, 6, 5)
    assert torch.equal(data.train_images[:, 0], torch.from_numpy(CHANNELS_FIRST[:, 0]))
    assert torch.equal(data.test_images[:, 0], torch.from_numpy(CHANNELS_FIRST[:5, 1]))


def test_images_among_other_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3), images=CHANNELS_FIRST, labels=np.zeros(12))
    assert torch.equal(ready(tmp_path / "a.npz").train_images, torch.from_numpy(CHANNELS_FIRST))


def test_files_are_told_by_what_they_hold(tmp_path):
    np.save(tmp_path / "a.npy", CHANNELS_FIRST)
    shutil.move(tmp_path / "a.npy", tmp_path / "a.npz")
    assert torch.equal(ready(tmp_path / "a.npz").train_images, torch.from_numpy(CHANNELS_FIRST))


@pytest.mark.parametrize("argument", ["train", "test"])
def test_missing_file(tmp_path, argument):
    np.save(tmp_path / "a.npy", CHANNELS_FIRST)
    files = {"train": tmp_path / "a.npy", argument: tmp_path / "none.npy"}
    with pytest.raises(FileNotFoundError, match=rf"{argument}='.*none\.npy' is not a file"):
        ready(**files)


WRONG = [
    (CHANNELS_FIRST.astype(np.float32), "holds float32 values, expected uint8"),
    (CHANNELS_FIRST.astype(np.uint16), "holds uint16 values, expected uint8"),
    (CHANNELS_FIRST > 9, "holds bool values, expected uint8"),
    (np.zeros((4, 8, 8, 2), np.uint8), r"has shape \(4, 8, 8, 2\), expected"),
    (np.zeros((4, 8), np.uint8), r"has shape \(4, 8\), expected"),
    (np.zeros((4, 8, 8, 3, 1), np.uint8), r"has shape \(4, 8, 8, 3, 1\), expected"),
    (np.zeros((), np.uint8), r"has shape \(\), expected"),
    (np.zeros((0, 8, 8, 3), np.uint8), r"has shape \(0, 8, 8, 3\), expected"),
    (np.zeros((4, 0, 8), np.uint8), r"has shape \(4, 0, 8\), expected"),
    (np.array([{}]), r"is no complete \.npy"),
]


@pytest.mark.parametrize(("array", "message"), WRONG)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_wrong_content(tmp_path, array, message, name):
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, array)
    with pytest.raises(ValueError, match=rf"train='.*a\.np.' {message}") as error:
        ready(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("keep", [0, 4, 20, 100, -10])
def test_truncated_file(tmp_path, name, keep):
    path = tmp_path / name
    np.save(path, CHANNELS_FIRST) if name == "a.npy" else np.savez(path, CHANNELS_FIRST)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train=.*is no complete \.npy") as error:
        ready(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("save", "reason"),
    [(np.savez, "Bad CRC-32"), (np.savez_compressed, "Error -3 while decompressing")],
)
def test_damaged_archive(tmp_path, save, reason):
    path = tmp_path / "a.npz"
    save(path, CHANNELS_FIRST)
    content = bytearray(path.read_bytes())
    start = 300 if save is np.savez else content.index(b"arr_0.npy") + 9 + 20
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train=.*is no complete \.npy.*{reason}"):
        ready(path)


def test_pickle(tmp_path):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(CHANNELS_FIRST))
    with pytest.raises(ValueError, match="it begins like neither") as error:
        ready(tmp_path / "a.npy")
    assert "allow_pickle" not in str(error.value)


def test_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ValueError, match=r"train='.*a\.npz' "):
        ready(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": CHANNELS_FIRST, "y": np.zeros(12)}, "2 arrays, none named images: x, y"),
        ({}, "0 arrays, none named images"),
    ],
)
def test_several_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        ready(tmp_path / "a.npz")


def test_shapes_that_differ(tmp_path):
    np.save(tmp_path / "a.npy", CHANNELS_FIRST)
    np.save(tmp_path / "b.npy", CHANNELS_FIRST[:, :1])
    with pytest.raises(ValueError, match=r"test images have shape \(1, 6, 5\)"):
        ready(tmp_path / "a.npy", tmp_path / "b.npy")
