"""Features that nothing has to learn, by their formulas; features of layers."""

import pytest
import torch
from torch import nn

from lightning_igm.metrics.digit_classifier import DigitClassifier
from lightning_igm.networks import (
    DCGANCritic,
    DigitFeatures,
    ImageStatistics,
    LayerFeatures,
    activations,
)


def images(size=8):
    draw = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, size, size, generator=draw, dtype=torch.float64)


def test_statistics_are_their_formulas():
    x = images()
    features = ImageStatistics(patches=[4], colors=True)(x)
    pixels, channels, colors, means, spreads = features
    assert torch.equal(pixels, x.flatten(1))
    torch.testing.assert_close(channels, (x.square().mean((2, 3)) + 1e-6).sqrt())
    expected = (x * x).sum((2, 3)) / x.sum((2, 3))
    torch.testing.assert_close(colors, expected, rtol=1e-5, atol=0)
    corner = x[:, :, :4, 4:].flatten(2)
    assert means.shape == spreads.shape == (4, 3 * 2 * 2)
    torch.testing.assert_close(means.view(4, 3, 2, 2)[:, :, 0, 1], corner.mean(2))
    expected = (corner.var(2, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(spreads.view(4, 3, 2, 2)[:, :, 0, 1], expected)


def test_statistics_that_are_not_asked_for_are_not_there():
    assert [f.shape[1] for f in ImageStatistics()(images())] == [192, 3]
    assert [f.shape[1] for f in ImageStatistics([8], pixels=False, channels=False)(images())] == [
        3,
        3,
    ]


def test_statistics_of_flat_images_have_finite_gradients():
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    features = ImageStatistics(patches=[2], colors=True)(x)
    (slope,) = torch.autograd.grad(sum(feature.sum() for feature in features), x)
    assert slope.isfinite().all()


def test_layers_are_those_of_activations():
    critic = DCGANCritic(image_size=8, width=4, hidden_dim=6, init="he").double()
    outputs, layers = activations(critic, images())
    features = LayerFeatures(critic)(images())
    assert [f.shape[1] for f in features] == [64, 6, 1]
    for feature, layer in zip(features, layers, strict=True):
        assert torch.equal(feature, layer.flatten(1))
    assert torch.equal(features[-1].squeeze(1), outputs)
    assert len(LayerFeatures(critic, last=False)(images())) == 2


@pytest.mark.parametrize("weights", ["digits", "mnist"])
def test_features_of_digits_are_the_classifiers_layers(weights):
    features = DigitFeatures(weights)(images(16).float())
    assert [f.shape[1] for f in features] == [16 * 32 * 32, 32 * 16 * 16, 48 * 8 * 8, 64]
    classifier = DigitClassifier.pretrained(weights)
    expected, _ = classifier(images(16).float())
    assert torch.equal(features[-1], expected)
    assert all(f.min() >= 0 for f in features[:-1])
    assert not any(p.requires_grad for p in DigitFeatures(weights).parameters())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"^patches\[1\]=0: must be at least 1"):
        ImageStatistics([2, 0])
    with pytest.raises(ValueError, match=r"^patches=\(\): must have a size"):
        ImageStatistics(pixels=False, channels=False)
    with pytest.raises(ValueError, match=r"^digits: 'svhn' is not allowed"):
        DigitFeatures("svhn")
    with pytest.raises(ValueError, match=r"^critic: Tanh has no attribute layers"):
        LayerFeatures(nn.Tanh())(images())
