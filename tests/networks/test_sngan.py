from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_igm.networks import SNGANCritic, SNGANGenerator
from lightning_igm.networks._same import same_conv, same_deconv


def parameter_counts(network: nn.Module) -> list[int]:
    """Parameters of each layer that has any, in order."""
    counts = (sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules())
    return [count for count in counts if count]


# --- TensorFlow's "SAME", entry by entry ------------------------------------------------------


def slow_same_conv(image: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """Convolution of ``(in, n, n)`` with ``(out, in, k, k)``."""
    n, k = image.shape[1], weight.shape[2]
    size = -(-n // stride)
    before = max((size - 1) * stride + k - n, 0) // 2
    result = np.zeros((weight.shape[0], size, size))
    for row, column in np.ndindex(size, size):
        for i, j in np.ndindex(k, k):
            y, x = row * stride + i - before, column * stride + j - before
            if 0 <= y < n and 0 <= x < n:
                result[:, row, column] += weight[:, :, i, j] @ image[:, y, x]
    return result


def slow_same_deconv(image: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """Transposed convolution of ``(in, n, n)`` with ``(in, out, k, k)``: scatter, then crop."""
    n, k = image.shape[1], weight.shape[2]
    full = np.zeros((weight.shape[1], (n - 1) * stride + k, (n - 1) * stride + k))
    for row, column in np.ndindex(n, n):
        for i, j in np.ndindex(k, k):
            place = row * stride + i, column * stride + j
            full[:, place[0], place[1]] += image[:, row, column] @ weight[:, :, i, j]
    before = (full.shape[1] - n * stride) // 2
    return full[:, before : before + n * stride, before : before + n * stride]


KERNELS = [(3, 1, 5), (4, 2, 6), (5, 2, 6), (5, 2, 8), (4, 1, 4)]


@pytest.mark.parametrize(("kernel_size", "stride", "size"), KERNELS)
def test_same_conv(kernel_size: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*same_conv(2, 3, kernel_size, stride)).double()
    images = torch.randn(1, 2, size, size, dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in layers.parameters())
    expected = slow_same_conv(images[0].numpy(), weight, stride) + bias[:, None, None]
    np.testing.assert_allclose(layers(images)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kernel_size", "stride", "size"), KERNELS)
def test_same_deconv(kernel_size: int, stride: int, size: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*same_deconv(2, 3, kernel_size, stride)).double()
    images = torch.randn(1, 2, size, size, dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in layers.parameters())
    expected = slow_same_deconv(images[0].numpy(), weight, stride) + bias[:, None, None]
    np.testing.assert_allclose(layers(images)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_pads_and_crops_of_5x5_layers() -> None:
    pad, conv = same_conv(1, 1, 5, 2)
    assert isinstance(pad, nn.ZeroPad2d)
    assert tuple(pad.padding) == (1, 2, 1, 2)
    assert conv.padding == (0, 0)
    # Full output 2 n + 3: one before and two after go.
    deconv = nn.Sequential(*same_deconv(1, 1, 5, 2))
    deconv[0].weight.data.copy_(torch.arange(25.0).view(1, 1, 5, 5))
    deconv[0].bias.data.zero_()
    image = torch.zeros(1, 1, 1, 1) + 1
    assert deconv(image)[0, 0].tolist() == [[6.0, 7.0], [11.0, 12.0]]


# --- CIFAR-10 ---------------------------------------------------------------------------------


def test_generator_parameter_counts() -> None:
    with torch.device("meta"):
        counts = parameter_counts(SNGANGenerator())
    assert counts == [
        *[1_056_768, 1_024],
        *[3_277_056, 512],
        *[819_328, 256],
        *[204_864, 128],
        1_731,
    ]
    assert sum(counts) == 5_361_667


@pytest.mark.parametrize(("spectral", "scales"), [("none", 0), ("fixed", 0), ("learnable", 8)])
def test_critic_parameter_counts(spectral: Any, scales: int) -> None:
    with torch.device("meta"):
        critic = SNGANCritic(spectral=spectral)
    assert sum(p.numel() for p in critic.parameters()) == 5_860_865 + scales
    if spectral == "none":
        assert parameter_counts(critic) == [
            *[1_792, 131_200, 147_584, 524_544],
            *[590_080, 2_097_664, 2_359_808, 8_193],
        ]


def outputs_of(network: Any, kind: type[nn.Module], inputs: Tensor) -> list[tuple[int, ...]]:
    shapes = []
    for layer in network.layers:
        inputs = layer(inputs)
        if isinstance(layer, kind):
            shapes.append(tuple(inputs.shape[1:]))
    return shapes


def test_maps() -> None:
    with torch.device("meta"):
        latent, images = torch.zeros(2, 128), torch.zeros(2, 3, 32, 32)
        generator, critic = SNGANGenerator(), SNGANCritic()
        assert outputs_of(generator, nn.BatchNorm2d, latent) == [
            *[(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32)],
        ]
        assert generator(latent).shape == (2, 3, 32, 32)
        assert outputs_of(critic, nn.LeakyReLU, images) == [
            *[(64, 32, 32), (128, 16, 16), (128, 16, 16), (256, 8, 8)],
            *[(256, 8, 8), (512, 4, 4), (512, 4, 4)],
        ]


def test_generator_is_the_table() -> None:
    """Equal to its table in functions, on batch statistics."""
    torch.manual_seed(0)
    generator = SNGANGenerator(latent_dim=5, image_size=16, width=2).double()
    for parameter in generator.parameters():
        parameter.data.normal_()
    latent = torch.randn(3, 5, dtype=torch.float64)
    p = list(generator.parameters())

    def normalised(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + offset[:, None, None]
        return x.clamp(min=0)

    x = normalised((latent @ p[0].T + p[1]).view(3, 16, 2, 2), p[2], p[3])
    for first in (4, 8, 12):
        x = F.conv_transpose2d(x, p[first], p[first + 1], stride=2)[:, :, 1:-2, 1:-2]
        x = normalised(x, p[first + 2], p[first + 3])
    x = F.conv_transpose2d(x, p[16], p[17])[:, :, 1:-1, 1:-1].sigmoid()
    assert x.shape == (3, 3, 16, 16)
    torch.testing.assert_close(generator(latent), x, rtol=1e-10, atol=1e-12)


def test_critic_is_the_table() -> None:
    torch.manual_seed(0)
    critic = SNGANCritic(image_size=16, width=2, out_dim=3, init="he").double()
    p = list(critic.parameters())
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    x: Tensor = images
    for layer in range(7):
        stride = 2 if layer in (1, 3, 5) else 1
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), p[2 * layer], p[2 * layer + 1], stride)
        x = torch.where(x > 0, x, 0.2 * x)
    expected = x.flatten(1) @ p[14].T + p[15]
    assert expected.shape == (2, 3)
    torch.testing.assert_close(critic(images), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("image_size", [8, 16, 24, 32, 64])
@pytest.mark.parametrize("out_dim", [1, 4])
def test_sizes(image_size: int, out_dim: int) -> None:
    generator = SNGANGenerator(latent_dim=5, image_size=image_size, channels=2, width=2)
    critic = SNGANCritic(image_size, channels=2, width=2, out_dim=out_dim)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, 2, image_size, image_size)
    assert generator.image_shape == critic.image_shape == images.shape[1:]
    assert critic(images).shape == ((3,) if out_dim == 1 else (3, 4))


@pytest.mark.parametrize(
    ("output", "value_range"), [("sigmoid", (0.0, 1.0)), ("tanh", (-1.0, 1.0))]
)
def test_value_range(output: Any, value_range: tuple[float, float]) -> None:
    generator = SNGANGenerator(latent_dim=4, image_size=8, width=4, output=output)
    assert generator.value_range == value_range
    for parameter in generator.parameters():
        parameter.data.mul_(1e4)
    images = generator(torch.randn(8, 4))
    assert (images.min(), images.max()) == value_range


def test_released_initialisation() -> None:
    torch.manual_seed(0)
    networks = [SNGANGenerator(width=16), SNGANCritic(width=16, spectral="none")]
    for network in networks:
        linear_std = 0.01 if isinstance(network, SNGANGenerator) else 0.02
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.eq(1).all()
                assert module.bias.eq(0).all()
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                continue
            assert module.bias.eq(0).all()
            std = linear_std if isinstance(module, nn.Linear) else 0.02
            largest = module.weight.abs().max()
            if isinstance(module, nn.Conv2d):
                assert largest <= 0.04
                std *= 0.8796  # of a normal variable cut at two standard deviations
            elif module.weight.numel() > 2_000:
                assert largest > 2.5 * std
            error = 5 / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=error)


@pytest.mark.parametrize("network", [SNGANGenerator, SNGANCritic])
def test_other_initialisations(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    built = network(width=16, init="normal")
    linear = next(m for m in built.modules() if isinstance(m, nn.Linear))
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    torch.manual_seed(0)
    default = network(width=16, init="default")
    linear = next(m for m in default.modules() if isinstance(m, nn.Linear))
    assert linear.bias.ne(0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 28}, "image_size=28: allowed are multiples of 8"),
        ({"image_size": 0}, "image_size=0: allowed are multiples of 8"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"channels": 0}, "channels=0: must be at least 1"),
        ({"init": "x"}, "init='x': allowed are 'smmd', 'normal', 'he', 'default'"),
    ],
)
@pytest.mark.parametrize("network", [SNGANGenerator, SNGANCritic])
def test_bad_arguments(network: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as error:
        network(**({"width": 2} | arguments))
    assert str(error.value) == message


def test_bad_arguments_of_one_network() -> None:
    with pytest.raises(ValueError, match=r"^latent_dim=0: must be at least 1$"):
        SNGANGenerator(latent_dim=0)
    with pytest.raises(
        ValueError, match=r"^output='relu': allowed are 'sigmoid', 'tanh', 'linear'$"
    ):
        SNGANGenerator(output="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^out_dim=0: must be at least 1$"):
        SNGANCritic(out_dim=0)
