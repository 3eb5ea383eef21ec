"""Inception-v3: the reference's features to the bit, and one line for every file that is not it."""

import hashlib
import os
import pickle
import urllib.error
import warnings

import pytest
import random_inception
import torch

from lightning_igm.metrics import InceptionV3
from lightning_igm.metrics.extractors import extract, identity
from lightning_igm.modules.compilation import compile_in_place


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_inception.write(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(scope="module")
def extractor(weights):
    return InceptionV3(weights, sha256=None)


def images(channels=3, count=2):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, channels, 8, 8), generator=draw, dtype=torch.uint8)


@torch.no_grad()
def test_features_and_logits_are_the_references(extractor, weights):
    reference = random_inception.network(weights)
    for mine, theirs in zip(extract(extractor, images()), reference(images()), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.std() > 0.1
    assert identity(extractor).startswith("InceptionV3-")


@pytest.mark.slow
@torch.no_grad()
def test_compiled_features_and_logits_are_the_same(extractor, weights):
    compiled = InceptionV3(weights, sha256=None)
    compiled.prepare()
    compile_in_place([compiled], "aot_eager")
    # Of two sizes: the second is another graph's.
    for count in (2, 3):
        inputs = images(count=count)
        for mine, eager in zip(extract(compiled, inputs), extract(extractor, inputs), strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_grey_images_are_repeated(extractor):
    grey = images(channels=1, count=1)
    for one, three in zip(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(one, three)


def test_nothing_is_loaded_before_prepare_which_changes_nothing_else(weights):
    assert InceptionV3("not there.pth", sha256=None).network is None
    torch.manual_seed(0)
    expected, filters = torch.rand(2), list(warnings.filters)
    torch.manual_seed(0)
    InceptionV3(weights, sha256=None).prepare()
    assert torch.equal(torch.rand(2), expected)
    assert warnings.filters == filters


def test_the_right_hash_is_taken(weights):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    extractor = InceptionV3(weights, sha256=digest[:8].upper())
    extractor.prepare()
    assert not any(p.requires_grad or p.is_meta for p in extractor.parameters())


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def spoil(kind, path, weights):
    if kind == "truncated":
        path.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "another network":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    elif kind == "no weights":
        torch.save([1, 2, 3], path)
    elif kind == "malicious":
        torch.save({"fc.weight": Touch(path.with_suffix(".executed"))}, path)
    elif kind == "malicious pickle":
        path.write_bytes(pickle.dumps(Touch(path.with_suffix(".executed"))))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "is damaged"),
        ("text", "damaged|more than tensors"),
        ("empty", "is damaged"),
        ("another network", "is of another network than Inception-v3"),
        ("no weights", "holds no weights by name"),
        ("malicious", "more than tensors, and nothing of it was executed"),
        ("malicious pickle", "more than tensors, and nothing of it was executed"),
    ],
)
def test_a_file_that_is_not_it_gives_one_line(kind, message, weights, tmp_path):
    path = tmp_path / "weights.pth"
    spoil(kind, path, weights)
    with pytest.raises(ValueError, match=message) as error:
        InceptionV3(path, sha256=None).prepare()
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    assert "github.com/toshas/torch-fidelity" in line
    assert not path.with_suffix(".executed").exists()


def test_another_hash_is_refused_with_both(weights):
    with pytest.raises(ValueError, match=r"its SHA-256 begins with [0-9a-f]{8}, not 6726825d") as e:
        InceptionV3(weights).prepare()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("sha256", ["", "xyz", "sha256:67"])
def test_a_hash_must_be_one(sha256):
    with pytest.raises(ValueError, match=f"sha256: '{sha256}' is not allowed"):
        InceptionV3(sha256=sha256)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.pth' is not a file; put https://"):
        InceptionV3(tmp_path / "gone.pth").prepare()


def test_without_network_the_line_says_which_file_to_put_where(tmp_path, monkeypatch):
    def no_network(url, path, hash_prefix):
        assert hash_prefix == "6726825d"
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(OSError, match="no route to host") as error:
        InceptionV3().prepare()
    assert "\n" not in str(error.value)
    assert f"{tmp_path}/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth" in str(
        error.value
    )


def test_a_file_in_torch_hubs_folder_is_not_downloaded(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    place = tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(weights.read_bytes())
    InceptionV3(sha256=None).prepare()


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (3, 8, 8)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="they must be uint8"):
        InceptionV3()(torch.zeros(shape, dtype=torch.uint8))


def test_floats_are_refused():
    with pytest.raises(ValueError, match=r"images: torch.float32 \(1, 3, 8, 8\)"):
        InceptionV3()(torch.zeros(1, 3, 8, 8))
