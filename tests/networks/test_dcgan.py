from typing import Any

import pytest
import torch
from torch import nn

from lightning_igm.networks import DCGANCritic, DCGANGenerator
from lightning_igm.networks.dcgan import OutputName

COLOR_MNIST: dict[str, Any] = {"latent_dim": 128, "image_size": 32, "width": 64}
CIFAR10: dict[str, Any] = {
    "latent_dim": 128,
    "image_size": 32,
    "width": 128,
    "kernel_size": 4,
    "output": "tanh",
}
CELEBA: dict[str, Any] = {"latent_dim": 256, "image_size": 64, "width": 128, "output": "tanh"}


def parameter_counts(network: nn.Module) -> list[int]:
    """Parameters of each layer that has any, in order."""
    counts = (sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules())
    return [count for count in counts if count]


# Per layer: projection, then (transposed convolution, batch norm) pairs, then the output layer.
@pytest.mark.parametrize(
    ("arguments", "total", "layers"),
    [
        (COLOR_MNIST, 1_557_571, [528_384, 819_200, 256, 204_800, 128, 4_803]),
        (CIFAR10, 3_685_123, [1_056_768, 2_097_152, 512, 524_288, 256, 6_147]),
        (
            CELEBA,
            21_425_283,
            [4_210_688, 13_107_200, 1_024, 3_276_800, 512, 819_200, 256, 9_603],
        ),
        (
            CELEBA | {"stride4": True},
            20_615_427,
            [4_210_688, 13_107_200, 1_024, 3_276_800, 512, 19_203],
        ),
        (COLOR_MNIST | {"image_size": 28}, 1_557_571, None),
        (CIFAR10 | {"width": 256}, 12_613_123, None),
        (CIFAR10 | {"width": 384}, 26_784_003, None),
    ],
)
def test_generator_parameter_counts(
    arguments: dict[str, Any], total: int, layers: list[int] | None
) -> None:
    with torch.device("meta"):
        counts = parameter_counts(DCGANGenerator(**arguments))
    assert sum(counts) == total
    if layers is not None:
        assert counts == layers


@pytest.mark.parametrize(
    ("arguments", "total", "layers"),
    [
        ({}, 1_553_793, [4_864, 204_928, 819_456, 524_416, 129]),
        ({"image_size": 28}, 1_553_793, [4_864, 204_928, 819_456, 524_416, 129]),
        (
            {"image_size": 64, "width": 128, "hidden_dim": 256},
            21_409_537,
            [9_728, 819_456, 3_277_312, 13_108_224, 4_194_560, 257],
        ),
        (
            {"image_size": 64, "width": 128, "hidden_dim": 256, "stride4": True},
            20_599_809,
            [19_456, 3_277_312, 13_108_224, 4_194_560, 257],
        ),
        ({"hidden_dim": None}, 1_033_345, [4_864, 204_928, 819_456, 4_097]),
    ],
)
def test_critic_parameter_counts(arguments: dict[str, Any], total: int, layers: list[int]) -> None:
    with torch.device("meta"):
        counts = parameter_counts(DCGANCritic(**arguments))
    assert sum(counts) == total
    assert counts == layers


@pytest.mark.parametrize(
    ("image_size", "kernel_size", "stride4"),
    [
        (size, kernel, stride4)
        for size in (8, 16, 28, 32, 64, 128)
        for kernel in (4, 5)
        for stride4 in (False, True)
        if (size, kernel) != (28, 4) and (size, stride4) != (8, True)
    ],
)
def test_every_size_has_its_shape(image_size: int, kernel_size: int, stride4: bool) -> None:
    sizes: dict[str, Any] = {
        "image_size": image_size,
        "kernel_size": kernel_size,
        "stride4": stride4,
        "channels": 2,
        "width": 3,
    }
    generator = DCGANGenerator(latent_dim=5, **sizes)
    critic = DCGANCritic(**sizes)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 2, image_size, image_size)
    assert generator.image_shape == critic.image_shape == images.shape[1:]
    assert critic(images).shape == (2,)
    flat = critic.layers[: [type(m) for m in critic.layers].index(nn.Flatten)](images)
    assert flat.shape[2:] == (4, 4)


def test_sizes_of_the_native_28_pixel_maps() -> None:
    generator = DCGANGenerator(image_size=28)
    shapes = []
    x = torch.randn(2, 128)
    for layer in generator.layers:
        x = layer(x)
        if isinstance(layer, nn.ConvTranspose2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(128, 7, 7), (64, 14, 14), (3, 28, 28)]


@pytest.mark.parametrize(
    ("output", "value_range"), [("sigmoid", (0.0, 1.0)), ("tanh", (-1.0, 1.0))]
)
def test_value_range(output: OutputName, value_range: tuple[float, float]) -> None:
    generator = DCGANGenerator(latent_dim=4, image_size=16, width=4, output=output)
    assert generator.latent_dim == 4
    assert generator.value_range == value_range
    for parameter in generator.parameters():
        parameter.data.mul_(1e3)
    images = generator(torch.randn(8, 4))
    assert (images.min(), images.max()) == value_range


def test_generator_layers_read_like_the_table() -> None:
    hidden = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU]
    types = [type(layer) for layer in DCGANGenerator(width=2).layers]
    assert types == [
        *[nn.Linear, nn.ReLU, nn.Unflatten],
        *hidden,
        *hidden,
        *[nn.ConvTranspose2d, nn.Sigmoid],
    ]


def test_without_batch_norm_hidden_layers_have_a_bias() -> None:
    with_norm = DCGANGenerator(width=4)
    without = DCGANGenerator(width=4, batch_norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in without.modules())
    hidden = [m for m in without.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert all(m.bias is not None for m in hidden)
    # One bias in place of a scale and an offset for each of the 8 + 4 hidden channels.
    assert sum(parameter_counts(with_norm)) - sum(parameter_counts(without)) == 12
    latent = torch.randn(3, 128)
    torch.testing.assert_close(without(latent)[:1], without(latent[:1]))


def test_stride_4_critic_sees_every_pixel() -> None:
    critic = DCGANCritic(image_size=64, width=2, stride4=True, init="he")
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(images).sum(), images)
    assert gradient.abs().sum(1).gt(0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "image_size=30: allowed are 28 and powers of two from 8"),
        ({"image_size": 4}, "image_size=4: allowed are 28 and powers of two from 8"),
        ({"image_size": 0}, "image_size=0: allowed are 28 and powers of two from 8"),
        ({"kernel_size": 3}, "kernel_size=3: allowed are 4, 5"),
        (
            {"kernel_size": 4, "image_size": 28},
            "kernel_size=4: must be 5 for image_size=28",
        ),
        ({"image_size": 8, "stride4": True}, "stride4=True: image_size=8 must be at least 16"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"channels": -1}, "channels=-1: must be at least 1"),
        ({"init": "xavier"}, "init='xavier': allowed are 'normal', 'he', 'default'"),
    ],
)
@pytest.mark.parametrize("network", [DCGANGenerator, DCGANCritic])
def test_bad_arguments(network: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as error:
        network(**({"width": 2} | arguments))
    assert str(error.value) == message


def test_spectral_parametrization_adds_a_scale_per_layer() -> None:
    plain, learnable, fixed = (
        sum(p.numel() for p in DCGANCritic(width=2, spectral=name).parameters())
        for name in ("none", "learnable", "fixed")
    )
    assert (learnable, fixed) == (plain + 5, plain)


def test_bad_arguments_of_one_network() -> None:
    with pytest.raises(ValueError, match=r"^spectral='sn': allowed are 'none', 'learnable'"):
        DCGANCritic(spectral="sn")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^output='relu': allowed are 'sigmoid', 'tanh', 'linear'$"
    ):
        DCGANGenerator(output="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^latent_dim=0: must be at least 1$"):
        DCGANGenerator(latent_dim=0)
    with pytest.raises(ValueError, match=r"^hidden_dim=0: must be at least 1$"):
        DCGANCritic(hidden_dim=0)
