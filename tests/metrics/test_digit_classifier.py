from importlib.resources import files

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from lightning_igm.data.color import colorize
from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.studies import train_digit_classifier


@pytest.fixture(scope="module")
def classifier():
    return DigitClassifier.pretrained()


def digits(size, count=600):
    data = load_digits()
    grey = torch.from_numpy(data.images[:count]).float().unsqueeze(1) / 16
    border = size // 8
    inner = (size - 2 * border,) * 2
    return F.pad(F.interpolate(grey, inner, mode="bilinear"), [border] * 4), torch.from_numpy(
        data.target[:count]
    )


@pytest.mark.parametrize("size", [16, 24, 32])
def test_coloured_digits_are_recognised(classifier, size):
    grey, labels = digits(size)
    images = colorize(grey, seed=1).float() / 255
    _, logits = classifier(images)
    assert (logits.argmax(1) == labels).float().mean() > 0.93


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_digits_are_recognised(classifier, channels):
    grey, labels = digits(32)
    _, logits = classifier(grey.expand(-1, channels, -1, -1))
    assert (logits.argmax(1) == labels).float().mean() > 0.97


def test_features_are_standardised_on_digits(classifier):
    images = colorize(digits(32)[0], seed=2)
    features, _ = classifier(images)
    assert features.shape == (600, classifier.num_features)
    assert features.dtype == torch.float32
    assert features.mean(0).abs().max() < 1.0
    assert 0.5 < features.std(0).min() <= features.std(0).max() < 2.0


def test_uint8_and_float_images_agree(classifier):
    images = torch.randint(256, (3, 3, 20, 20), dtype=torch.uint8)
    for from_bytes, from_floats in zip(classifier(images), classifier(images / 255), strict=True):
        assert torch.equal(from_bytes, from_floats)


def test_pretrained_is_frozen_in_eval_mode_and_draws_nothing():
    state = torch.get_rng_state()
    classifier = DigitClassifier.pretrained()
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert {p.device.type for p in classifier.parameters()} == {"cpu"}


def test_the_shipped_file_is_small():
    weights = files("lightning_igm.metrics") / "weights" / "digit_classifier.pt"
    assert len(weights.read_bytes()) < 500_000


@pytest.mark.parametrize("shape", [(2, 2, 16, 16), (2, 3, 7, 16), (3, 16, 16)])
def test_other_shapes_are_refused(classifier, shape):
    with pytest.raises(ValueError, match="images must be"):
        classifier(torch.zeros(shape))


def test_the_training_script_repeats(tmp_path, capsys):
    states = []
    for name in ("first.pt", "second.pt"):
        train_digit_classifier.main(steps=3, batch_size=8, output=tmp_path / name)
        states.append(torch.load(tmp_path / name, weights_only=True))
    assert "held-out accuracy, coloured, 32x32, noise 0.2" in capsys.readouterr().out
    assert states[0].keys() == DigitClassifier().state_dict().keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
