import math

import pytest
import torch
from torch import nn

from lightning_igm.networks import (
    AllConvCritic,
    DCGANCritic,
    DCGANGenerator,
    HiddenMomentCritic,
    initialize_weights,
)
from lightning_igm.networks.init import InitName

NETWORKS = [DCGANGenerator, DCGANCritic, AllConvCritic, HiddenMomentCritic]


def build(network: type[nn.Module], init: InitName) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = network(width=16, init=init)
    return built


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("init", ["normal", "he"])
def test_statistics(network: type[nn.Module], init: InitName) -> None:
    slope = 0.0 if network is DCGANGenerator else 0.2
    for module in build(network, init).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight
            if isinstance(module, nn.ConvTranspose2d):
                fan_in = weight.shape[0] * weight.shape[2] * weight.shape[3] / 4
            else:
                fan_in = weight.numel() / weight.shape[0]
            std = 0.02 if init == "normal" else math.sqrt(2 / (1 + slope**2) / fan_in)
            # 5 standard errors of a mean and of a standard deviation
            assert weight.mean().abs() < 5 * std / math.sqrt(weight.numel())
            assert abs(weight.std() / std - 1) < 5 / math.sqrt(2 * weight.numel())
            if module.bias is not None:
                assert module.bias.eq(0).all()


@pytest.mark.parametrize("network", [DCGANCritic, AllConvCritic, HiddenMomentCritic])
def test_he_draws_what_torch_draws(network: type[nn.Module]) -> None:
    critic = build(network, "he")
    reference = build(network, "default")
    for module in reference.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.2)
    for (name, weight), (_, expected) in zip(
        critic.named_parameters(), reference.named_parameters(), strict=True
    ):
        if name.endswith("weight"):
            torch.testing.assert_close(weight, expected)


def test_he_keeps_the_scale_through_transposed_convolutions() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 64, 4, 2, 1)
    )
    initialize_weights(layers, "he")
    images = layers(torch.randn(8, 64, 16, 16))[:, :, 4:-4, 4:-4]
    # Each layer doubles the second moment and each ReLU halves it.
    assert images.var().item() == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("network", NETWORKS)
def test_default_is_pytorch_s_own(network: type[nn.Module]) -> None:
    built = build(network, "default")
    torch.manual_seed(0)
    for module in built.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight.clone()
            module.reset_parameters()
            torch.testing.assert_close(module.weight, weight, rtol=0, atol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_draws_come_from_the_global_generator(network: type[nn.Module]) -> None:
    first, second = build(network, "normal"), build(network, "normal")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"^init='zeros': allowed are 'normal', 'he', 'default'$"):
        initialize_weights(nn.Linear(1, 1), "zeros")  # type: ignore[arg-type]


def test_groups_of_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(256, 256, 3, groups=8)
    initialize_weights(layer, "he")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.02)
