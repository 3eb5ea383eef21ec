"""The CIFAR-10 classifier: trained by its command, loaded safely."""

import os

import pytest
import torch

from lightning_igm.metrics import CIFAR10Classifier
from lightning_igm.studies import train_cifar10_classifier


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_command_trains_and_its_file_is_loaded(tmp_path, monkeypatch, bfloat16):
    class Data:
        def __init__(self, root, download, batch_size):
            assert not download

        def setup(self):
            labels = torch.arange(80) % 2
            draw = torch.Generator().manual_seed(0)
            noise = torch.randint(100, (80, 3, 32, 32), generator=draw)
            self.train_images = (noise + 100 * labels[:, None, None, None]).byte()
            self.train_labels = labels
            self.test_images, self.test_labels = self.train_images, labels

    monkeypatch.setattr(train_cifar10_classifier, "CIFAR10DataModule", Data)
    output = tmp_path / "weights.pt"
    accuracy = train_cifar10_classifier.train(
        tmp_path, output, epochs=3, batch_size=16, bfloat16=bfloat16
    )
    assert accuracy > 0.9
    extractor = CIFAR10Classifier(output)
    extractor.prepare()
    extractor.eval()
    data = Data(tmp_path, False, 16)
    data.setup()
    logits = extractor(data.test_images)[1]
    assert float((logits.argmax(1) == data.test_labels).double().mean()) == accuracy


@pytest.mark.parametrize("name", ["there.pt", "nowhere/weights.pt"])
def test_the_output_is_looked_at_before_training(name, tmp_path, capsys):
    (tmp_path / "there.pt").write_text("kept")
    with pytest.raises(SystemExit):
        train_cifar10_classifier.main(["--root=data", f"--output={tmp_path / name}"])
    assert "--output: " in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "there.pt").read_text() == "kept"


def test_building_draws_nothing_and_floats_equal_bytes():
    state = torch.get_rng_state()
    classifier = CIFAR10Classifier().eval()
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8)
    for one, other in zip(classifier(images), classifier(images / 255), strict=True):
        assert torch.equal(one, other)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_that_do_not_serve_give_one_line(tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.raises(FileNotFoundError, match="is not a file; python -m"):
        CIFAR10Classifier(path).prepare()
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(ValueError, match="is of another network; python -m"):
        CIFAR10Classifier(path).prepare()
    for note in (b"this is not weights", b"error 404", b"<html>", b""):
        path.write_bytes(note)
        with pytest.raises(ValueError, match=r"is damaged; python -m|holds more than tensors"):
            CIFAR10Classifier(path).prepare()
    torch.save({"head.weight": Touch(tmp_path / "executed")}, path)
    with pytest.raises(ValueError, match="nothing of it was executed"):
        CIFAR10Classifier(path).prepare()
    assert not (tmp_path / "executed").exists()


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"images: shape \(2, 4, 32, 32\)"):
        CIFAR10Classifier()(torch.zeros(2, 4, 32, 32))
