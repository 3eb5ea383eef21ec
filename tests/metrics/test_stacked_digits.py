"""Modes of Stacked MNIST: known divergences, and the classifier that reads the digits."""

import math
import zlib
from importlib.resources import files

import numpy as np
import pytest
import torch

from lightning_igm.metrics import DigitClassifier, mode_coverage, stacked_modes


def test_a_single_mode_scores_log_1000():
    scores = mode_coverage(torch.full((500,), 42))
    assert scores["modes"] == 1
    assert scores["reverse_kl"] == pytest.approx(math.log(1000), rel=1e-12)
    assert scores["modes_std"] == scores["reverse_kl_std"] == 0


def test_exactly_uniform_modes_score_zero():
    scores = mode_coverage(torch.arange(1000).repeat(26))
    assert scores["modes"] == 1000
    assert scores["reverse_kl"] == pytest.approx(0.0, abs=1e-12)


def test_uniform_samples_score_the_known_floor():
    modes = torch.randint(1000, (26_000,), generator=torch.Generator().manual_seed(0))
    scores = mode_coverage(modes)
    assert scores["modes"] == 1000
    assert scores["reverse_kl"] == pytest.approx(0.0194, abs=0.003)
    assert scores["reverse_kl_std"] == pytest.approx(0.0009, rel=0.6)


def test_the_spread_is_that_of_fresh_samples():
    draw = torch.Generator().manual_seed(0)
    shares = torch.rand(1000, generator=draw).pow(4)
    outcomes = [
        mode_coverage(torch.multinomial(shares, 2000, replacement=True, generator=draw))
        for _ in range(100)
    ]
    for name in ("modes", "reverse_kl"):
        values = np.array([scores[name] for scores in outcomes])
        errors = np.array([scores[f"{name}_std"] for scores in outcomes])
        assert errors.mean() / values.std() == pytest.approx(1.0, abs=0.25)


class Brightness(torch.nn.Module):
    """Reads the digit ``d`` from an image of brightness ``20 d``."""

    def forward(self, images):
        digits = images.float().mean((1, 2, 3)).div(20).round().long()
        return None, torch.nn.functional.one_hot(digits, 10).float()


def test_the_mode_is_read_from_the_channels_in_order():
    digits = torch.tensor([[1, 2, 3], [0, 0, 9], [9, 8, 0]])
    images = (20 * digits)[..., None, None].expand(-1, -1, 8, 8).byte()
    assert stacked_modes(images, Brightness()).tolist() == [123, 9, 980]


def test_the_classifier_for_mnist_reads_drawn_digits():
    """A one is a stroke and a zero is a ring; the accuracy on MNIST is in the training's report."""
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    images[0, 0, 4:24, 13:16] = 255
    row, column = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    radius = ((row - 13.5) ** 2 / 1.6 + (column - 13.5) ** 2).sqrt()
    images[1, 0] = 255 * ((radius > 5) & (radius < 8))
    classifier = DigitClassifier.pretrained("mnist")
    assert classifier(images)[1].argmax(1).tolist() == [1, 0]


def test_the_shipped_weights_for_mnist_are_those_that_were_measured():
    data = (files("lightning_igm.metrics") / "weights" / "mnist_classifier.pt").read_bytes()
    assert len(data) < 500_000
    assert zlib.crc32(data) == CHECKSUM


CHECKSUM = 0x833C45FC  # 99.63 % on the 10,000 test digits, 99.40 % with a border of 2 pixels.


def test_other_weights_are_not_known():
    with pytest.raises(ValueError, match="digits: 'svhn' is not allowed; it must be one of"):
        DigitClassifier.pretrained("svhn")


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"images: shape \(2, 1, 8, 8\)"):
        stacked_modes(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), Brightness())
    with pytest.raises(ValueError, match=r"modes: shape \(0,\)"):
        mode_coverage(torch.zeros(0, dtype=torch.long))
