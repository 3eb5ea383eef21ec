import math

import pytest
import torch
from kernel_oracles import ConvCritic, gradient, noise, points, relative_error
from torch import nn

from lightning_igm.losses.cramer import cramer_critic_loss, cramer_generator_loss, cramer_penalty

REAL, FAKE, OTHER = points([1.0, 0.0]), points([0.0, 1.0]), points([2.0, 2.0])


def length(v):
    return math.sqrt(sum(x * x for x in v) + 1e-5)


def less(a, b):
    return [p - q for p, q in zip(a, b, strict=True)]


def c(a, b):
    return length(less(a, b)) - length(a)


def test_printed_values():
    assert cramer_critic_loss(REAL, FAKE, OTHER).item() == pytest.approx(-1.0065708, abs=5.1e-8)
    assert cramer_generator_loss(REAL, FAKE, OTHER).item() == pytest.approx(1.4142171, abs=5e-8)


def test_losses_are_those_of_loops_over_rows():
    x, y, other = (noise(5, 3, seed=seed) for seed in (1, 2, 3))
    rows = list(zip(x.tolist(), y.tolist(), other.tolist(), strict=True))
    expected = -sum(c(a, b) - c(o, b) for a, b, o in rows) / 5
    assert cramer_critic_loss(x, y, other).item() == pytest.approx(expected, rel=1e-12)
    distances = [length(less(a, b)) + length(less(a, o)) - length(less(b, o)) for a, b, o in rows]
    expected = sum(distances) / 5
    assert cramer_generator_loss(x, y, other).item() == pytest.approx(expected, rel=1e-12)


def test_gradients():
    inputs = [noise(3, 2, seed=seed).requires_grad_() for seed in (1, 2, 3)]
    for loss in (cramer_critic_loss, cramer_generator_loss):
        assert torch.autograd.gradcheck(loss, inputs)
        same = [inputs[0], inputs[0].detach(), inputs[0].detach()]
        (slope,) = torch.autograd.grad(loss(*same), inputs[0])
        assert slope.isfinite().all()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_penalty_is_that_of_loops(known, sizes):
    critic = ConvCritic(3)
    real, fake = noise(sizes[0], 2, 6, 6), noise(sizes[1], 2, 6, 6, seed=2)
    u = torch.rand(sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = []
    for i in range(sizes[0]):
        point = ((1 - u[i]) * real[i] + u[i] * fake[i]).requires_grad_()
        a, b = critic(point[None])[0], critic(fake[i : i + 1])[0]
        value = ((a - b).square().sum() + 1e-5).sqrt() - (a.square().sum() + 1e-5).sqrt()
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        terms.append((slope.square().sum().sqrt() - 1) ** 2)
    expected = sum(terms) / len(terms)
    actual = cramer_penalty(
        critic,
        real,
        fake,
        torch.Generator().manual_seed(0),
        fake_features=critic(fake) if known else None,
    )
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = (gradient(value, critic.parameters()) for value in (actual, expected))
    assert relative_error(*slopes) < 1e-11


def test_half_precision_is_widened_and_autocast_off():
    x, y, other = (noise(5, 3, seed=seed).bfloat16() for seed in (1, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (cramer_critic_loss, cramer_generator_loss):
            value = loss(x, y, other)
            assert value.dtype == torch.float32
            assert torch.equal(value, loss(x.float(), y.float(), other.float()))
    critic = ConvCritic(3).float()
    real, fake = noise(3, 2, 6, 6).float(), noise(3, 2, 6, 6, seed=2).bfloat16()
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            generator = torch.Generator().manual_seed(0)
            values.append(cramer_penalty(critic, real, fake, generator))
    assert torch.equal(*values)


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match=r"^features: the shapes \(5, 3\), \(5, 3\), \(4, 3\)"):
        cramer_critic_loss(noise(5, 3), noise(5, 3), noise(4, 3))
    with pytest.raises(ValueError, match="paired by index"):
        cramer_generator_loss(noise(5, 3), noise(5, 2), noise(5, 3))
    with pytest.raises(ValueError, match=r"^features: shape \(5, 3, 1\) is not allowed"):
        cramer_critic_loss(noise(5, 3, 1), noise(5, 3), noise(5, 3))
    coupled = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    with pytest.raises(ValueError, match=r"^critic: layer '1' is a BatchNorm1d"):
        cramer_penalty(coupled, noise(5, 3), noise(5, 3))
