from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_igm.networks import AllConvCritic, HiddenMomentCritic


def convolution_counts(critic: nn.Module) -> list[int]:
    return [
        sum(p.numel() for p in module.parameters())
        for module in critic.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]


def activation_shapes(critic: nn.Module, image_size: int) -> list[tuple[int, ...]]:
    """Shapes, without the batch, of what the leaky ReLUs put out."""
    shapes: list[tuple[int, ...]] = []
    for module in critic.modules():
        if isinstance(module, nn.LeakyReLU):
            module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    critic(torch.zeros(1, 3, image_size, image_size))
    return shapes


@pytest.mark.parametrize(
    ("same", "total", "head"), [(False, 5_464_033, 1_537), (True, 5_487_073, 24_577)]
)
def test_all_conv_parameter_counts(same: bool, total: int, head: int) -> None:
    with torch.device("meta"):
        counts = convolution_counts(AllConvCritic(same_padding_everywhere=same))
    assert counts == [
        *[4_704, 147_552, 147_552],
        *[295_104, 590_016, 590_016],
        *[1_180_032, 2_359_680, 147_840],
        head,
    ]
    assert sum(counts) == total


@pytest.mark.parametrize(("same", "sizes"), [(False, (5, 2, 2)), (True, (8, 8, 8))])
def test_all_conv_maps(same: bool, sizes: tuple[int, ...]) -> None:
    shapes = activation_shapes(AllConvCritic(width=2, same_padding_everywhere=same), 32)
    assert shapes == [
        *[(2, 32, 32), (2, 32, 32), (2, 16, 16)],
        *[(4, 16, 16), (4, 16, 16), (4, 8, 8)],
        *[(8, size, size) for size in sizes],
    ]


def test_all_conv_is_the_table() -> None:
    """The critic equals its table written with functional convolutions."""
    critic = AllConvCritic(width=2, init="he").double()
    weights = [
        (module.weight.detach(), module.state_dict()["bias"])
        for module in critic.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    x: Tensor = images
    for index, (weight, bias) in enumerate(weights[:-1], start=1):
        if index in (1, 2, 4, 5):  # left 1, right 2, top 1, bottom 2
            padded = x.new_zeros(*x.shape[:2], x.shape[2] + 3, x.shape[3] + 3)
            padded[:, :, 1:-2, 1:-2] = x
            x = F.conv2d(padded, weight, bias)
        elif index in (3, 6):
            x = F.conv2d(x, weight, bias, stride=2, padding=1)
        else:
            x = F.conv2d(x, weight, bias)
        x = torch.where(x > 0, x, 0.2 * x)
    weight, bias = weights[-1]
    expected = (x.flatten(1) @ weight.T + bias)[:, 0]
    torch.testing.assert_close(critic(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("width", "total", "hidden"),
    [
        (512, 4_584_577, 286_720),
        (1024, 18_311_425, 573_440),
        (1536, 41_180_545, 860_160),
    ],
)
def test_hidden_moment_counts(width: int, total: int, hidden: int) -> None:
    with torch.device("meta"):
        critic = HiddenMomentCritic(width=width)
        shapes = activation_shapes(critic, 32)
    assert sum(convolution_counts(critic)) == total
    assert sum(torch.Size(shape).numel() for shape in shapes) == hidden
    quarter, half = width // 4, width // 2
    assert shapes == [
        *[(quarter, 32, 32), (quarter, 16, 16)],
        *[(half, 16, 16), (half, 8, 8)],
        *[(width, 8, 8), (width, 4, 4)],
    ]


def test_moments_with_pixels_of_the_hidden_moment_critic() -> None:
    with torch.device("meta"):
        critic = HiddenMomentCritic()
        hidden = sum(torch.Size(shape).numel() for shape in activation_shapes(critic, 32))
    moments = sum(p.numel() for p in critic.parameters()) + hidden + 3 * 32 * 32
    assert moments == 4_874_369


@pytest.mark.parametrize("image_size", [8, 9, 16, 28, 32, 64, 128])
def test_hidden_moment_critic_takes_any_size(image_size: int) -> None:
    critic = HiddenMomentCritic(image_size=image_size, channels=1, width=4)
    assert critic.image_shape == (1, image_size, image_size)
    assert critic(torch.rand(2, 1, image_size, image_size)).shape == (2,)


@pytest.mark.parametrize(
    ("image_size", "same"),
    [(4, True), (16, True), (28, True), (28, False), (32, True), (64, False), (128, False)],
)
def test_all_conv_critic_sizes(image_size: int, same: bool) -> None:
    critic = AllConvCritic(image_size, channels=1, width=2, same_padding_everywhere=same)
    assert critic.image_shape == (1, image_size, image_size)
    assert critic(torch.rand(2, 1, image_size, image_size)).shape == (2,)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (AllConvCritic, {"image_size": 24}, "image_size=24: allowed are multiples of 4 from 28"),
        (AllConvCritic, {"image_size": 30}, "image_size=30: allowed are multiples of 4 from 28"),
        (
            AllConvCritic,
            {"image_size": 0, "same_padding_everywhere": True},
            "image_size=0: allowed are multiples of 4 from 4",
        ),
        (AllConvCritic, {"width": 0}, "width=0: must be at least 1"),
        (AllConvCritic, {"init": None}, "init=None: allowed are 'normal', 'he', 'default'"),
        (HiddenMomentCritic, {"width": 6}, "width=6: allowed are multiples of 4"),
        (HiddenMomentCritic, {"width": 0}, "width=0: allowed are multiples of 4"),
        (HiddenMomentCritic, {"image_size": 0}, "image_size=0: must be at least 1"),
        (HiddenMomentCritic, {"channels": 0}, "channels=0: must be at least 1"),
    ],
)
def test_bad_arguments(network: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as error:
        network(**({"width": 4} | arguments))
    assert str(error.value) == message
