from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_igm.networks import Autoencoder, MLPCritic, MLPGenerator
from lightning_igm.networks.autoencoder import AutoencoderCritic


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


GENERATORS: list[tuple[dict[str, Any], int]] = [
    ({}, 12_402),
    ({"image_shape": [3]}, 12_503),
    ({"latent_dim": 10, "hidden": [50, 50], "activation": "tanh"}, 3_202),
    (
        {
            "latent_dim": 100,
            "image_shape": [1, 28, 28],
            "hidden": [600, 600, 800],
            "batch_norm": True,
        },
        1_533_984,
    ),
    ({"latent_dim": 10, "image_shape": [784], "hidden": [64, 256, 256, 1024]}, 1_149_904),
    ({"latent_dim": 10, "image_shape": [32], "hidden": [64, 256, 256, 1024]}, 379_104),
    # Decoders of the MMD GAN on the rings.
    ({"latent_dim": 10}, 11_402),
    ({"latent_dim": 10, "image_shape": [3]}, 11_503),
]
# The grid of the stability study.
for hidden, counts in {
    20: (522, 562, 642, 802),
    100: (10_602, 10_802, 11_202, 12_002),
    200: (41_202, 41_602, 42_402, 44_002),
}.items():
    for latent_dim, expected in zip((2, 4, 8, 16), counts, strict=True):
        GENERATORS.append(({"latent_dim": latent_dim, "hidden": [hidden, hidden]}, expected))

CRITICS: list[tuple[dict[str, Any], int]] = [
    ({"out_dim": 10}, 11_410),
    ({"image_shape": [3], "out_dim": 10}, 11_510),
    ({"hidden": [50, 25], "out_dim": 5, "activation": "tanh"}, 1_555),
    ({}, 10_501),
    ({"image_shape": [3]}, 10_601),
    ({"hidden": [50, 25], "activation": "tanh"}, 1_451),
    ({"image_shape": [1, 28, 28], "hidden": [400, 200], "batch_norm": True}, 395_601),
]


@pytest.mark.parametrize(("arguments", "parameters"), GENERATORS)
def test_generator_parameter_counts(arguments: dict[str, Any], parameters: int) -> None:
    assert count(MLPGenerator(**arguments)) == parameters


@pytest.mark.parametrize(("arguments", "parameters"), CRITICS)
def test_critic_parameter_counts(arguments: dict[str, Any], parameters: int) -> None:
    assert count(MLPCritic(**arguments)) == parameters


@pytest.mark.parametrize("shape", [(2,), (3, 4, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    generator = MLPGenerator(latent_dim=7, image_shape=shape, hidden=(6,), batch_norm=True)
    points = generator(torch.randn(5, 7))
    assert points.shape == (5, *shape)
    assert generator.image_shape == shape
    assert MLPCritic(shape, hidden=(6, 4), out_dim=3)(points).shape == (5, 3)
    assert MLPCritic(shape, hidden=(), batch_norm=True)(points).shape == (5,)


ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers_by_hand(activation: Any, batch_norm: bool) -> None:
    torch.manual_seed(0)
    sizes = [4, 6, 5, 3]
    critic = MLPCritic((4,), sizes[1:3], sizes[3], activation, batch_norm).double()
    points = torch.randn(9, 4, dtype=torch.float64)
    p = iter(parameter.detach().normal_() for parameter in critic.parameters())
    x = points
    for layer in range(3):
        x = x @ next(p).T + next(p)
        if layer < 2:
            if batch_norm:
                x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * next(p) + next(p)
            x = ACTIVATIONS[activation](x)
    torch.testing.assert_close(critic(points), x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("output", "value_range"), [("linear", None), ("sigmoid", (0.0, 1.0)), ("tanh", (-1.0, 1.0))]
)
def test_value_range(output: Any, value_range: tuple[float, float] | None) -> None:
    generator = MLPGenerator(output=output)
    assert generator.value_range == value_range
    points = generator(1e6 * torch.randn(100, 20))
    if value_range is None:
        assert points.abs().max() > 100
    else:
        assert (points.min(), points.max()) == value_range


def test_initial_weights_are_glorots() -> None:
    torch.manual_seed(0)
    for network in (MLPGenerator(), MLPCritic(out_dim=10), Autoencoder((10, 10, 1), (50,))):
        for linear in (m for m in network.modules() if isinstance(m, nn.Linear)):
            bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
            assert 0.9 * bound < linear.weight.abs().max() <= bound
            assert linear.bias.eq(0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image_shape": (3, 4)},
            "image_shape=(3, 4): allowed are (D,) and (C, H, W), each 1 or more",
        ),
        (
            {"image_shape": (0,)},
            "image_shape=(0,): allowed are (D,) and (C, H, W), each 1 or more",
        ),
        ({"hidden": (5, 0)}, "hidden[1]=0: must be at least 1"),
        ({"activation": "x"}, "activation='x': allowed are 'relu', 'tanh', 'sigmoid'"),
    ],
)
@pytest.mark.parametrize("network", [MLPGenerator, MLPCritic])
def test_bad_arguments(network: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as error:
        network(**arguments)
    assert str(error.value) == message


def test_bad_arguments_of_one_network() -> None:
    with pytest.raises(ValueError, match=r"^latent_dim=0: must be at least 1$"):
        MLPGenerator(latent_dim=0)
    with pytest.raises(ValueError, match=r"^out_dim=0: must be at least 1$"):
        MLPCritic(out_dim=0)
    with pytest.raises(ValueError, match=r"^output='x': allowed are 'sigmoid', 'tanh', 'linear'$"):
        MLPGenerator(output="x")  # type: ignore[arg-type]


# --- autoencoders -----------------------------------------------------------------------------


def dropped_by_half(hidden: Tensor, rate: float) -> Tensor:
    """Stands in for dropout: what rate it was given can be read off."""
    return hidden * (1 - rate)


def test_autoencoder_parameter_count() -> None:
    assert count(Autoencoder()) == 1_674_032


def test_autoencoder_by_hand() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder((1, 2, 3), (5, 4), 2, dropout=(0.1, 0.2, 0.3)).double()
    sizes = [6, 5, 4, 2, 4, 5, 6]
    linears = [*autoencoder.encoder, *autoencoder.decoder]
    assert [(m.in_features, m.out_features) for m in linears] == list(pairwise(sizes))
    images = torch.rand(7, 1, 2, 3, dtype=torch.float64)
    x, seen = images.flatten(1), [images.flatten(1)]
    for linear in linears:
        x = torch.sigmoid(x @ linear.weight.T + linear.bias)
        seen.append(x)
    torch.testing.assert_close(autoencoder.encode(images), seen[3])
    torch.testing.assert_close(autoencoder.encode(images, depth=2), seen[2])
    torch.testing.assert_close(autoencoder.encode(images, depth=0), seen[0])
    torch.testing.assert_close(autoencoder.decode(seen[3]), seen[6].view(7, 1, 2, 3))
    torch.testing.assert_close(autoencoder(images), seen[6].view(7, 1, 2, 3))


def test_reconstruction_by_hand() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder((1, 2, 3), (5, 4), 2, dropout=(0.1, 0.2, 0.3)).double()
    down, up = autoencoder.encoder, autoencoder.decoder
    x = torch.rand(7, 5, dtype=torch.float64)
    alone = up[1](torch.sigmoid(down[1](0.8 * x)))
    torch.testing.assert_close(
        autoencoder.reconstruct(x, range(1, 2), dropped_by_half), alone, rtol=1e-12, atol=0
    )
    images = x = torch.rand(7, 6, dtype=torch.float64)
    for linear, rate in zip(down, (0.1, 0.2, 0.3), strict=True):
        x = torch.sigmoid(linear((1 - rate) * x))
    whole = up[2](torch.sigmoid(up[1](torch.sigmoid(up[0](x)))))
    torch.testing.assert_close(
        autoencoder.reconstruct(images, range(3), dropped_by_half), whole, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("levels", [range(1), range(1, 2), range(3)])
def test_what_is_trained_is_what_reconstructs(levels: range) -> None:
    autoencoder = Autoencoder((1, 2, 3), (5, 4), 2, dropout=(0.1, 0.2, 0.3))
    hidden = autoencoder.encode(torch.rand(4, 1, 2, 3), depth=levels.start).detach()
    logits = autoencoder.reconstruct(hidden, levels, dropped_by_half)
    assert logits.shape == hidden.shape
    gradients = torch.autograd.grad(
        logits.square().sum(), list(autoencoder.parameters()), allow_unused=True
    )
    reached = {p for p, g in zip(autoencoder.parameters(), gradients, strict=True) if g is not None}
    trained = autoencoder.parameters_of(levels)
    assert len(trained) == len(set(trained)) == 4 * len(levels)
    assert set(trained) == reached


def test_autoencoder_errors() -> None:
    with pytest.raises(ValueError, match=r"^dropout=\[0.2\]: must be 2 numbers in \[0, 1\)"):
        Autoencoder(dropout=(0.2,))
    with pytest.raises(ValueError, match=r"^dropout=\[0.2, 1.0\]: must be 2 numbers"):
        Autoencoder(dropout=(0.2, 1.0))
    with pytest.raises(ValueError, match=r"^code_dim=0: must be at least 1"):
        Autoencoder(code_dim=0)
    autoencoder = Autoencoder((1, 2, 3), (5,), 2)
    with pytest.raises(ValueError, match=r"^images of shape \(N, 1, 2, 3\) expected"):
        autoencoder.encode(torch.rand(4, 6))
    with pytest.raises(ValueError, match=r"^codes of shape \(N, 2\) expected"):
        autoencoder.decode(torch.rand(4, 3))


def test_critic_with_a_decoder_is_its_encoder() -> None:
    encoder, decoder = MLPCritic(out_dim=4), MLPGenerator(latent_dim=4)
    critic = AutoencoderCritic(encoder, decoder)
    points = torch.randn(3, 2)
    assert torch.equal(critic(points), encoder(points))
    assert count(critic) == count(encoder) + count(decoder)
