from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_igm.networks import GRAMCritic, GRAMGenerator, PoolingCritic
from lightning_igm.networks.gram import BatchShift, VariantName

VARIANTS = VariantName.__args__  # type: ignore[attr-defined]
TF: dict[str, Any] = {"width": 32, "kernel_size": 5, "variant": "tensorflow"}
JULIA: dict[str, Any] = {"width": 32, "variant": "julia"}


def layer_counts(network: nn.Module) -> list[int]:
    counts = (sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules())
    return [count for count in counts if count]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (TF | {"latent_dim": 128}, 522_915),
        (TF | {"latent_dim": 128, "kernel_size": 4}, 429_891),
        (JULIA | {"latent_dim": 100, "output": "sigmoid"}, 372_672),
        ({"latent_dim": 100, "image_size": 64}, 3_576_704),
        ({"latent_dim": 10, "channels": 1}, 698_240),
        ({"latent_dim": 128}, 1_183_616),
        ({"latent_dim": 64, "image_size": 64}, 3_281_792),
    ],
)
def test_generator_parameter_counts(arguments: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        assert sum(layer_counts(GRAMGenerator(**arguments))) == expected


def test_layers_of_the_cifar10_generator() -> None:
    counts = layer_counts(GRAMGenerator(latent_dim=128, **TF))
    assert counts == [264_192, 128, 204_864, 64, 51_232, 32, 2_403]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (TF | {"out_dim": 128}, 521_088),
        (TF | {"out_dim": 128, "kernel_size": 4}, 428_064),
        (TF | {"out_dim": 128, "width": [32, 32, 64]}, 210_624),
        (TF | {"out_dim": 128, "width": [32, 32, 64], "kernel_size": 4}, 182_112),
        (JULIA | {"out_dim": 200}, 575_560),
        ({"image_size": 64, "out_dim": 200}, 4_395_976),
        ({"image_size": 64}, 2_765_569),
        ({"channels": 1, "out_dim": 10, "output_bias": False}, 698_112),
        ({"out_dim": 128, "output_bias": False}, 1_183_488),
        ({"image_size": 64, "out_dim": 64, "output_bias": False}, 3_281_664),
    ],
)
def test_critic_parameter_counts(arguments: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        assert sum(layer_counts(GRAMCritic(**arguments))) == expected


@pytest.mark.parametrize(("bias", "expected"), [(True, 43_108), (False, 43_028)])
def test_pooling_critic_parameter_count(bias: bool, expected: int) -> None:
    assert sum(layer_counts(PoolingCritic(bias=bias))) == expected


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("image_size", [8, 16, 64])
def test_shapes(variant: Any, kernel_size: int, image_size: int) -> None:
    generator = GRAMGenerator(
        6, image_size, channels=2, width=2, kernel_size=kernel_size, variant=variant
    )
    critic = GRAMCritic(image_size, 2, width=2, out_dim=5, kernel_size=kernel_size, variant=variant)
    images = generator(torch.randn(3, 6))
    assert images.shape == (3, 2, image_size, image_size)
    assert generator.image_shape == critic.image_shape == images.shape[1:]
    assert critic(images).shape == (3, 5)


def test_pooling_critic_shapes() -> None:
    critic = PoolingCritic(widths=(2, 3, 4), out_dim=5)
    shapes, x = [], torch.rand(2, 1, 28, 28)
    for layer in critic.layers:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(2, 14, 14), (3, 7, 7), (4, 3, 3)]
    assert x.shape == (2, 5)


# --- the maps -----------------------------------------------------------------------------------


def slow_same_conv(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Correlate ``(in, n, n)`` at every second place; TensorFlow's zeros."""
    n, k = image.shape[1], weight.shape[2]
    before = (k - 2) // 2
    result = np.zeros((len(weight), n // 2, n // 2))
    for row, column in np.ndindex(n // 2, n // 2):
        for i, j in np.ndindex(k, k):
            y, x = 2 * row + i - before, 2 * column + j - before
            if 0 <= y < n and 0 <= x < n:
                result[:, row, column] += weight[:, :, i, j] @ image[:, y, x]
    return result


def batch_shift(maps: Tensor, offset: Tensor) -> Tensor:
    mean, var = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) / (var + 1e-3).sqrt() + offset[:, None, None]


def scaled_norm(maps: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    mean, var = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + offset[:, None, None]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def randomised(network: Any) -> tuple[Any, list[Tensor]]:
    torch.manual_seed(0)
    network = network.double()
    return network, [parameter.detach().normal_() for parameter in network.parameters()]


@pytest.mark.parametrize("kernel_size", [4, 5])
def test_tensorflow_critic_is_padded_as_tensorflow_pads(kernel_size: int) -> None:
    arguments = TF | {"kernel_size": kernel_size, "width": 2}
    critic, p = randomised(GRAMCritic(8, 1, out_dim=3, **arguments))
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    maps = [torch.from_numpy(slow_same_conv(image.numpy(), p[0].numpy())) for image in images]
    x = leaky(torch.stack(maps) + p[1][:, None, None])
    expected = x.flatten(1) @ p[2].T + p[3]
    torch.testing.assert_close(critic(images), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [4, 5])
def test_tensorflow_generator_by_hand(kernel_size: int) -> None:
    arguments = TF | {"kernel_size": kernel_size, "width": 2}
    generator, p = randomised(GRAMGenerator(5, 16, **arguments))
    latent = torch.randn(3, 5, dtype=torch.float64)
    x = (latent @ p[0].T + p[1]).view(3, 4, 4, 4)
    x = batch_shift(x, p[2]).clamp(min=0)
    # The full output is 2 n + k - 2; as many go before as (k - 2) // 2 says.
    before = (kernel_size - 2) // 2
    x = F.conv_transpose2d(x, p[3], p[4], stride=2)[:, :, before:, before:][:, :, :8, :8]
    x = batch_shift(x, p[5]).clamp(min=0)
    x = F.conv_transpose2d(x, p[6], p[7], stride=2)[:, :, before:, before:][:, :, :16, :16]
    assert len(p) == 8
    for mode in (True, False):
        torch.testing.assert_close(generator.train(mode)(latent), x.tanh(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("variant", "slope"), [("julia", 0.2), ("pytorch", 0.0)])
def test_generators_with_scales_by_hand(variant: Any, slope: float) -> None:
    generator, p = randomised(GRAMGenerator(5, 16, width=2, output="sigmoid", variant=variant))
    if variant == "pytorch":  # Its projection has no bias.
        p.insert(1, torch.zeros(p[0].shape[0], dtype=torch.float64))
    latent = torch.randn(3, 5, dtype=torch.float64)
    x = scaled_norm((latent @ p[0].T + p[1]).view(3, 4, 4, 4), p[2], p[3])
    x = torch.where(x > 0, x, slope * x)
    x = scaled_norm(F.conv_transpose2d(x, p[4], None, 2, 1), p[5], p[6])
    x = torch.where(x > 0, x, slope * x)
    x = F.conv_transpose2d(x, p[7], None, 2, 1).sigmoid()
    assert len(p) == 8
    torch.testing.assert_close(generator(latent), x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", ["julia", "pytorch"])
@pytest.mark.parametrize("bias", [True, False])
def test_critics_with_scales_by_hand(variant: Any, bias: bool) -> None:
    critic, p = randomised(GRAMCritic(16, 2, 3, 4, output_bias=bias, variant=variant))
    images = torch.randn(3, 2, 16, 16, dtype=torch.float64)
    x = leaky(F.conv2d(images, p[0], None, 2, 1))
    x = leaky(scaled_norm(F.conv2d(x, p[1], None, 2, 1), p[2], p[3]))
    expected = x.flatten(1) @ p[4].T + (p[5] if bias else 0)
    assert len(p) == 5 + bias
    torch.testing.assert_close(critic(images), expected, rtol=1e-9, atol=1e-11)


def test_pooling_critic_by_hand() -> None:
    critic, p = randomised(PoolingCritic(7, 2, (3, 4), out_dim=5))
    images = torch.randn(3, 2, 7, 7, dtype=torch.float64)
    x = scaled_norm(F.conv2d(images, p[0], p[1], 1, 1), p[2], p[3]).clamp(min=0)
    x = x[:, :, :6, :6].unflatten(3, (3, 2)).unflatten(2, (3, 2)).amax((3, 5))
    x = scaled_norm(F.conv2d(x, p[4], p[5], 1, 1), p[6], p[7]).clamp(min=0)
    x = x[:, :, :2, :2].amax((2, 3))
    torch.testing.assert_close(critic(images), x @ p[8].T + p[9], rtol=1e-9, atol=1e-11)


def test_batch_shift_is_the_same_in_both_modes_and_keeps_no_statistics() -> None:
    shift = BatchShift(3).double()
    shift.bias.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    maps = 5 + 2 * torch.randn(4, 3, 6, 6, dtype=torch.float64)
    expected = batch_shift(maps, shift.bias)
    for mode in (True, False):
        torch.testing.assert_close(shift.train(mode)(maps), expected, rtol=1e-12, atol=1e-12)
    assert not list(shift.buffers())
    assert shift(maps).mean((0, 2, 3)).tolist() == pytest.approx([1.0, 2.0, 3.0])


# --- initial weights ------------------------------------------------------------------------------


def weights_of(network: nn.Module, *kinds: type[nn.Module]) -> list[Tensor]:
    return [m.weight.detach() for m in network.modules() if isinstance(m, kinds)]  # type: ignore[misc]


def all_biases(network: nn.Module) -> Tensor:
    biases = [p.flatten() for name, p in network.named_parameters() if name.endswith("bias")]
    return torch.cat([torch.zeros(1), *biases])


def near(weight: Tensor, std: float) -> bool:
    return abs(weight.std().item() / std - 1) < 5 / (2 * weight.numel()) ** 0.5


def test_initial_weights_of_tensorflow() -> None:
    torch.manual_seed(0)
    critic = GRAMCritic(out_dim=64, **TF)
    for weight in weights_of(critic, nn.Conv2d):
        assert near(weight, 0.02 * 0.8796)  # of a normal variable cut at two standard deviations
        assert weight.abs().max() <= 0.04
    generator = GRAMGenerator(**TF)
    for weight in weights_of(generator, nn.ConvTranspose2d, nn.Linear) + weights_of(
        critic, nn.Linear
    ):
        assert near(weight, 0.02)
    assert not all_biases(critic).any()
    assert not all_biases(generator).any()


def test_initial_weights_of_pytorch() -> None:
    torch.manual_seed(0)
    generator = GRAMGenerator(width=64)
    critic, encoder = GRAMCritic(out_dim=64), GRAMCritic(out_dim=64, output_bias=False)
    layers = (nn.ConvTranspose2d, nn.Conv2d)
    for network in (generator, critic, encoder):
        for weight in weights_of(network, *layers):
            assert near(weight, 0.02)
        for scale in weights_of(network, nn.BatchNorm2d):
            assert near(scale - 1, 0.02)
            assert scale.mean().item() == pytest.approx(1, abs=0.02)
    # Without a bias a linear layer is a convolution in the released codes.
    assert near(weights_of(generator, nn.Linear)[0], 0.02)
    assert near(weights_of(encoder, nn.Linear)[0], 0.02)
    (weight,) = weights_of(critic, nn.Linear)
    assert near(weight, (3 * weight.shape[1]) ** -0.5)


def test_initial_weights_of_julia_and_of_the_pooling_critic() -> None:
    torch.manual_seed(0)
    for network in (GRAMGenerator(**JULIA), GRAMCritic(out_dim=64, **JULIA), PoolingCritic()):
        for weight in weights_of(network, nn.ConvTranspose2d, nn.Conv2d, nn.Linear):
            area = weight[0, 0].numel()
            bound = (6 / (area * (weight.shape[0] + weight.shape[1]))) ** 0.5
            assert 0.9 * bound < weight.abs().max() <= bound
        assert all(scale.eq(1).all() for scale in weights_of(network, nn.BatchNorm2d))
        assert not all_biases(network).any()


# --- bad arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 28}, "image_size=28: allowed are powers of two from 8"),
        ({"image_size": 4}, "image_size=4: allowed are powers of two from 8"),
        ({"kernel_size": 3}, "kernel_size=3: allowed are 4, 5"),
        ({"variant": "x"}, "variant='x': allowed are 'pytorch', 'tensorflow', 'julia'"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"width": [4, 0, 4]}, "width=0: must be at least 1"),
        ({"width": [4, 4]}, "width=[4, 4]: must be a number, or 3 of them for image_size=32"),
        ({"channels": 0}, "channels=0: must be at least 1"),
    ],
)
@pytest.mark.parametrize("network", [GRAMGenerator, GRAMCritic])
def test_bad_arguments(network: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as error:
        network(**arguments)
    assert str(error.value) == message


def test_bad_arguments_of_one_network() -> None:
    with pytest.raises(ValueError, match=r"^latent_dim=0: must be at least 1$"):
        GRAMGenerator(latent_dim=0)
    with pytest.raises(ValueError, match=r"^output='x': allowed are 'sigmoid', 'tanh', 'linear'$"):
        GRAMGenerator(output="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^out_dim=0: must be at least 1$"):
        GRAMCritic(out_dim=0)
    with pytest.raises(ValueError, match=r"^widths\[1\]=0: must be at least 1$"):
        PoolingCritic(widths=(4, 0))
    with pytest.raises(ValueError, match=r"^widths=\[4, 4, 4\]: must be one or more, and leave"):
        PoolingCritic(image_size=7, widths=(4, 4, 4))
