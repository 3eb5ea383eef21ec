from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_igm.networks import (
    AllConvCritic,
    DCGAN5Critic,
    DCGANCritic,
    HiddenMomentCritic,
    ResNetCritic,
    ResNetGenerator,
    SNGANCritic,
    activations,
    advance_spectral_norms,
)
from lightning_igm.networks.resnet import ResidualBlock

CELEBA: dict[str, Any] = {"image_size": 160, "batch_norm": False, "strided_output": True}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def randomised(network: Any) -> Any:
    torch.manual_seed(0)
    for parameter in network.double().parameters():
        parameter.data.normal_()
    return network


# --- residual blocks --------------------------------------------------------------------------


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def normalised(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + offset[:, None, None]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("resample", ["up", "down", "none"])
def test_residual_block(resample: Any, inputs: int, batch_norm: bool) -> None:
    block = randomised(ResidualBlock(inputs, 3, resample, batch_norm))
    maps = torch.randn(2, inputs, 4, 4, dtype=torch.float64)
    p = dict(block.named_parameters())
    convs = [name for name in p if name.startswith("residual") and p[name].dim() == 4]
    norms = [name for name in p if name.startswith("residual") and p[name].dim() == 1][:-1]
    assert [f"{name[:-6]}bias" in p for name in convs] == [False, True]
    assert len(norms) == (4 if batch_norm else 0)

    x = normalised(maps, *(p[n] for n in norms[:2])) if batch_norm else maps
    x = F.conv2d(twice(x.relu()) if resample == "up" else x.relu(), p[convs[0]], padding=1)
    assert x.shape[1] == (3 if resample == "up" else inputs)
    x = normalised(x, *(p[n] for n in norms[2:])) if batch_norm else x
    x = F.conv2d(x.relu(), p[convs[1]], p[f"{convs[1][:-6]}bias"], padding=1)
    x = halved(x) if resample == "down" else x
    side = {"up": twice, "down": halved, "none": lambda y: y}[resample](maps)
    side_parameters = [p[name] for name in p if name.startswith("shortcut")]
    if resample != "none" or inputs != 3:
        weight, bias = side_parameters
        side = F.conv2d(side, weight, bias)
        assert weight.shape == (3, inputs, 1, 1)
    else:
        assert not side_parameters
    torch.testing.assert_close(block(maps), x + side, rtol=1e-10, atol=1e-10)


# --- counts and shapes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "total", "blocks"),
    [
        ({}, 12_219_715, [7_606_272, 1_902_592, 476_160, 119_296]),
        (CELEBA, 13_405_891, [7_603_200, 1_901_056, 475_392, 118_912]),
    ],
)
def test_generator_parameter_counts(
    arguments: dict[str, Any], total: int, blocks: list[int]
) -> None:
    with torch.device("meta"):
        generator = ResNetGenerator(**arguments)
    assert count(generator) == total
    assert [count(layer) for layer in generator.layers if isinstance(layer, ResidualBlock)] == (
        blocks
    )


@pytest.mark.parametrize(
    ("critic", "total", "scales"),
    [(ResNetCritic, 10_103_297, 14), (DCGAN5Critic, 17_440_385, 6)],
)
def test_critic_parameter_counts(critic: Any, total: int, scales: int) -> None:
    with torch.device("meta"):
        assert count(critic()) == total
        assert count(critic(spectral="fixed")) == total
        assert count(critic(spectral="learnable")) == total + scales


def maps_of(network: Any, inputs: Tensor, kinds: tuple[type[nn.Module], ...]) -> list[Any]:
    shapes = []
    for layer in network.layers:
        inputs = layer(inputs)
        if isinstance(layer, kinds):
            shapes.append(tuple(inputs.shape[1:]))
    return shapes


def test_maps_of_the_papers() -> None:
    kinds = (nn.Unflatten, ResidualBlock, nn.ConvTranspose2d, nn.ZeroPad2d)
    with torch.device("meta"):
        latent = torch.zeros(2, 128)
        assert maps_of(ResNetGenerator(), latent, kinds) == [
            *[(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (64, 64, 64)],
            (3, 64, 64),
        ]
        assert maps_of(ResNetGenerator(**CELEBA), latent, kinds) == [
            *[(1024, 5, 5), (512, 10, 10), (256, 20, 20), (128, 40, 40), (64, 80, 80)],
            *[(3, 161, 161), (3, 160, 160)],
        ]
        images = torch.zeros(2, 3, 64, 64)
        assert maps_of(ResNetCritic(), images, (nn.LeakyReLU, ResidualBlock)) == [
            *[(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4)],
            (1024, 4, 4),
        ]
        images = torch.zeros(2, 3, 160, 160)
        assert maps_of(DCGAN5Critic(), images, (nn.LeakyReLU,)) == [
            *[(64, 80, 80), (128, 40, 40), (256, 20, 20), (512, 10, 10), (1024, 5, 5)],
        ]


@pytest.mark.parametrize("image_size", [32, 64, 96, 128])
@pytest.mark.parametrize("strided_output", [False, True])
def test_generator_sizes(image_size: int, strided_output: bool) -> None:
    generator = ResNetGenerator(5, image_size, 2, width=1, strided_output=strided_output)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 2, image_size, image_size)
    assert generator.image_shape == images.shape[1:]
    assert generator.latent_dim == 5
    blocks = [layer for layer in generator.layers if isinstance(layer, ResidualBlock)]
    extra = image_size != 64 and not strided_output
    assert len(blocks) == (5 if extra else 4)
    if extra:
        assert blocks[0].shortcut[1].weight.shape[:2] == (16, 16)


@pytest.mark.parametrize("image_size", [32, 64, 96, 128])
@pytest.mark.parametrize("out_dim", [1, 3])
@pytest.mark.parametrize("network", [ResNetCritic, DCGAN5Critic])
def test_critic_sizes(network: Any, image_size: int, out_dim: int) -> None:
    critic = network(image_size, channels=2, width=1, out_dim=out_dim)
    outputs = critic(torch.rand(2, 2, image_size, image_size))
    assert outputs.shape == ((2,) if out_dim == 1 else (2, 3))
    blocks = [layer for layer in critic.layers if isinstance(layer, ResidualBlock)]
    if network is ResNetCritic:
        assert len(blocks) == (4 if image_size == 64 else 5)
        # The fifth keeps size and channels: its shortcut is the identity.
        assert not list(blocks[4].shortcut) if image_size != 64 else True


def test_resnet_critic_is_the_table() -> None:
    critic = randomised(ResNetCritic(image_size=32, width=1, out_dim=2))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    p = dict(critic.named_parameters())

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    x = leaky(F.conv2d(images, p["layers.0.weight"], p["layers.0.bias"], padding=1))
    for layer in critic.layers:
        if isinstance(layer, ResidualBlock):
            x = layer(x)
    x = leaky(x).sum(3).sum(2)
    weight, bias = list(p.values())[-2:]
    torch.testing.assert_close(critic(images), x @ weight.T + bias, rtol=1e-10, atol=1e-10)


def test_dcgan5_critic_is_the_table() -> None:
    critic = randomised(DCGAN5Critic(image_size=32, width=1))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    p = list(critic.parameters())
    x: Tensor = images
    for weight, bias in zip(p[:-2:2], p[1:-2:2], strict=True):
        padded = x.new_zeros(*x.shape[:2], x.shape[2] + 3, x.shape[3] + 3)
        padded[:, :, 1:-2, 1:-2] = x
        x = F.conv2d(padded, weight, bias, stride=2)
        x = torch.where(x > 0, x, 0.2 * x)
    expected = (x.flatten(1) @ p[-2].T + p[-1])[:, 0]
    torch.testing.assert_close(critic(images), expected, rtol=1e-10, atol=1e-10)


def test_generator_ends_as_the_table_says() -> None:
    generator = randomised(ResNetGenerator(image_size=64, width=2, strided_output=True))
    end = [type(layer) for layer in generator.layers[-5:]]
    assert end == [nn.BatchNorm2d, nn.ReLU, nn.ConvTranspose2d, nn.ZeroPad2d, nn.Sigmoid]
    head, deconv = generator.layers[:-3], generator.layers[-3]
    hidden = head(torch.randn(3, 128, dtype=torch.float64))
    full = F.conv_transpose2d(hidden, deconv.weight, deconv.bias, stride=2)
    expected = full[:, :, 1:-2, 1:-2].sigmoid()
    torch.testing.assert_close(generator.layers[-3:](hidden), expected)


@pytest.mark.parametrize(
    ("output", "value_range"), [("sigmoid", (0.0, 1.0)), ("tanh", (-1.0, 1.0))]
)
def test_value_range(output: Any, value_range: tuple[float, float]) -> None:
    generator = ResNetGenerator(4, 32, width=1, output=output)
    assert generator.value_range == value_range
    generator.layers[-2].weight.data.mul_(1e6)
    images = generator(torch.randn(8, 4))
    assert (images.min(), images.max()) == value_range


def test_released_initialisation() -> None:
    torch.manual_seed(0)
    for network in (ResNetGenerator(width=8), ResNetCritic(width=8), DCGAN5Critic(width=8)):
        inside = [m for b in network.modules() if isinstance(b, ResidualBlock) for m in b.modules()]
        for module in network.modules():
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                continue
            assert module.bias is None or module.bias.eq(0).all()
            largest = module.weight.abs().max().item()
            if module in inside:
                window = module.kernel_size[0] ** 2
                bound = (6 / window / (module.in_channels + module.out_channels)) ** 0.5
                assert 0.97 * bound < largest <= bound
            elif isinstance(module, nn.Conv2d):
                assert 0.035 < largest <= 0.04
            else:
                std = 0.01 if isinstance(module, nn.Linear) else 0.02
                error = 5 / (2 * module.weight.numel()) ** 0.5
                assert module.weight.std().item() == pytest.approx(std, rel=error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 48}, "image_size=48: allowed are multiples of 32"),
        ({"image_size": 0}, "image_size=0: allowed are multiples of 32"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"channels": 0}, "channels=0: must be at least 1"),
        ({"init": "x"}, "init='x': allowed are 'smmd', 'normal', 'he', 'default'"),
    ],
)
@pytest.mark.parametrize("network", [ResNetGenerator, ResNetCritic, DCGAN5Critic])
def test_bad_arguments(network: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as error:
        network(**({"width": 1} | arguments))
    assert str(error.value) == message


def test_bad_arguments_of_some_networks() -> None:
    with pytest.raises(ValueError, match=r"^latent_dim=0: must be at least 1$"):
        ResNetGenerator(latent_dim=0)
    with pytest.raises(
        ValueError, match=r"^output='relu': allowed are 'sigmoid', 'tanh', 'linear'$"
    ):
        ResNetGenerator(output="relu")  # type: ignore[arg-type]
    for critic in (ResNetCritic, DCGAN5Critic, DCGANCritic):
        with pytest.raises(ValueError, match=r"^out_dim=0: must be at least 1$"):
            critic(out_dim=0)
    for critic in (ResNetCritic, DCGAN5Critic):
        with pytest.raises(ValueError, match=r"^spectral='sn': allowed are 'none', 'learnable'"):
            critic(spectral="sn")  # type: ignore[arg-type]


# --- outputs and activations of critics -------------------------------------------------------

# Critic, and channels of each of its named layers.
NAMED: list[tuple[nn.Module, list[int]]] = [
    (DCGANCritic(width=2, hidden_dim=5), [2, 4, 8, 5, 1]),
    (DCGANCritic(width=2, hidden_dim=None, out_dim=3), [2, 4, 8, 3]),
    (AllConvCritic(width=2), [2, 2, 2, 4, 4, 4, 8, 8, 8, 1]),
    (HiddenMomentCritic(width=4), [1, 1, 2, 2, 4, 4, 1]),
    (SNGANCritic(width=1, out_dim=2, spectral="learnable"), [1, 2, 2, 4, 4, 8, 8, 2]),
    (DCGAN5Critic(image_size=32, width=1), [1, 2, 4, 8, 16, 1]),
    (ResNetCritic(image_size=32, width=1), [1, 2, 4, 8, 16, 16, 1]),
]


@pytest.mark.parametrize(("critic", "channels"), NAMED, ids=lambda v: type(v).__name__)
def test_activations(critic: Any, channels: list[int]) -> None:
    images = torch.rand(2, 3, 32, 32)
    advance_spectral_norms(critic)
    outputs, hidden = activations(critic, images)
    assert torch.equal(outputs, critic(images))
    assert [h.shape[1] for h in hidden] == channels
    assert hidden[-1].shape == (2, channels[-1])
    assert torch.equal(hidden[-1].squeeze(1), outputs)
    # Leaky ReLUs are taken at their output; blocks before the leaky ReLU that follows.
    x, expected = images, []
    for layer in critic.layers:
        x = layer(x)
        if isinstance(layer, nn.LeakyReLU | ResidualBlock | nn.Linear):
            expected.append(x)
    if isinstance(critic, ResNetCritic):
        del expected[-2]
    elif isinstance(critic, DCGANCritic) and len(channels) == 5:
        del expected[3]
    assert all(torch.equal(h, e) for h, e in zip(hidden, expected, strict=True))
    # No hook is left behind.
    assert len(activations(critic, images)[1]) == len(hidden)
    assert not any(module._forward_hooks for module in critic.modules())


def test_activations_can_be_differentiated() -> None:
    critic = ResNetCritic(image_size=32, width=1, spectral="learnable")
    outputs, hidden = activations(critic, torch.rand(2, 3, 32, 32))
    penalty = sum((h.square().mean() for h in hidden), outputs.new_zeros(()))
    gradients = torch.autograd.grad(penalty, list(critic.parameters()))
    assert all(gradient.ne(0).any() for gradient in gradients)


def test_activations_of_an_own_critic() -> None:
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(), nn.Linear(3, 2))
    images = torch.rand(5, 1, 2, 2)
    outputs, hidden = activations(critic, images)
    assert torch.equal(outputs, critic(images))
    assert torch.equal(hidden[0], critic[:3](images))
    assert hidden[1] is outputs
    with pytest.raises(ValueError, match=r"^critic: Linear has no attribute layers that is an"):
        activations(nn.Linear(2, 1), images)


def test_hooks_do_not_outlive_an_error() -> None:
    critic = DCGANCritic(width=2)
    with pytest.raises(ValueError, match="images of shape"):
        activations(critic, torch.rand(1, 3, 8, 8))
    assert not any(module._forward_hooks for module in critic.modules())


@pytest.mark.parametrize("hidden_dim", [None, 7])
def test_outputs_of_the_dcgan_critic(hidden_dim: int | None) -> None:
    images = torch.rand(2, 3, 32, 32)
    assert DCGANCritic(width=2, hidden_dim=hidden_dim, out_dim=4)(images).shape == (2, 4)
    assert DCGANCritic(width=2, hidden_dim=hidden_dim)(images).shape == (2,)
