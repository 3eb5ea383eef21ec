import math

import pytest
import torch

from lightning_igm.losses.adversarial import (
    logistic_critic_loss,
    non_saturating_generator_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from lightning_igm.losses.penalties import zero_centred_penalty

REAL = [-1.7, 0.3, 2.0]
FAKE = [-0.5, 0.7, 0.0, 4.0]


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def logits(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_critic_loss_is_the_cross_entropy_of_real_against_fake():
    expected = -sum(math.log(sigmoid(logit)) for logit in REAL) / len(REAL)
    expected -= sum(math.log(1 - sigmoid(logit)) for logit in FAKE) / len(FAKE)
    assert logistic_critic_loss(logits(REAL), logits(FAKE)).item() == pytest.approx(expected, 1e-12)


def test_critic_loss_has_the_gradient_of_the_cross_entropy():
    real, fake = logits(REAL), logits(FAKE)
    logistic_critic_loss(real, fake).backward()
    assert real.grad.tolist() == pytest.approx([(sigmoid(r) - 1) / 3 for r in REAL], rel=1e-12)
    assert fake.grad.tolist() == pytest.approx([sigmoid(f) / 4 for f in FAKE], rel=1e-12)


def test_generator_loss_is_the_surprise_of_a_fake_being_real():
    fake = logits(FAKE)
    loss = non_saturating_generator_loss(fake)
    expected = -sum(math.log(sigmoid(logit)) for logit in FAKE) / len(FAKE)
    assert loss.item() == pytest.approx(expected, 1e-12)
    loss.backward()
    assert fake.grad.tolist() == pytest.approx([(sigmoid(f) - 1) / 4 for f in FAKE], rel=1e-12)


def test_a_critic_that_cannot_tell_pays_two_log_two():
    zeros = torch.zeros(5, dtype=torch.float64)
    assert logistic_critic_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert non_saturating_generator_loss(zeros).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(size):
    real = torch.tensor([size, -size], requires_grad=True)
    fake = torch.tensor([size, -size], requires_grad=True)
    loss = logistic_critic_loss(real, fake) + non_saturating_generator_loss(fake)
    loss.backward()
    # Each of the three terms is `size` at one of its two logits and 0 at the other.
    assert loss.item() == pytest.approx(1.5 * size, rel=1e-6)
    assert real.grad.tolist() == pytest.approx([0.0, -0.5], abs=1e-6)
    assert fake.grad.tolist() == pytest.approx([0.5, -0.5], abs=1e-6)


def test_printed_values_of_logistic_losses():
    assert logistic_critic_loss(logits([1.0]), logits([-1.0])).item() == pytest.approx(
        0.626523, abs=5e-7
    )
    fake = non_saturating_generator_loss(logits([-1.0])).item()
    assert fake == pytest.approx(1.313262, abs=5e-7)


def test_wasserstein_losses_are_differences_of_means():
    real, fake = logits(REAL), logits(FAKE)
    loss = wasserstein_critic_loss(real, fake)
    assert loss.item() == pytest.approx(sum(FAKE) / 4 - sum(REAL) / 3, rel=1e-12)
    loss.backward()
    assert real.grad.tolist() == pytest.approx(3 * [-1 / 3], rel=1e-12)
    assert fake.grad.tolist() == pytest.approx(4 * [1 / 4], rel=1e-12)
    assert wasserstein_generator_loss(fake).item() == pytest.approx(-sum(FAKE) / 4, rel=1e-12)


# --- relativistic ---------------------------------------------------------------------------------


class Hyperbolic(torch.nn.Module):
    """w2 tanh(W1 x + b1) + b2."""

    def __init__(self):
        super().__init__()
        values = [[1.0, -1.0], [2.0, 0.0]], [0.0, -1.0], [1.0, -2.0], 0.5
        self.weights = torch.nn.ParameterList(
            [torch.tensor(v, dtype=torch.float64) for v in values]
        )

    def forward(self, points):
        first, shift, last, offset = self.weights
        return torch.tanh(points @ first.mT + shift) @ last + offset


PAIRS = torch.tensor([[[0.5, 1.0], [-0.4, 0.3]], [[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)


def test_golden_relativistic_losses_with_both_penalties():
    critic, (real, fake) = Hyperbolic(), PAIRS
    adversarial = relativistic_critic_loss(critic(real), critic(fake))
    assert adversarial.item() == pytest.approx(0.50915271, abs=5.1e-9)
    penalties = [zero_centred_penalty(critic, points) for points in PAIRS]
    assert [p.item() for p in penalties] == pytest.approx([5.69846775, 1.76378448], abs=5.1e-9)
    loss = adversarial + 0.1 * sum(penalties)
    assert loss.item() == pytest.approx(1.25537793, abs=5.1e-9)
    gradients = torch.autograd.grad(loss, list(critic.weights), materialize_grads=True)
    expected = [-0.35248404, -0.47267866, 0.55302200, 0.83956320]
    expected += [-0.22864691, 0.11220104, 0.02414273, -0.65333498, 0]
    found = torch.cat([gradient.flatten() for gradient in gradients]).tolist()
    assert found == pytest.approx(expected, abs=5.1e-9)
    fake = fake.clone().requires_grad_()
    loss = relativistic_generator_loss(critic(real), critic(fake))
    assert loss.item() == pytest.approx(0.92271626, abs=5.1e-9)
    expected = [0.36179613, 0.12059871, 0.39620476, 0.13206825]
    found = torch.autograd.grad(loss, fake)[0].flatten().tolist()
    assert found == pytest.approx(expected, abs=5.1e-9)


def test_relativistic_losses_are_those_of_pairs():
    real, fake = logits([-1.7, 0.3, 2.0]), logits([-0.5, 0.7, 0.0])
    differences = [r - f for r, f in zip(real.tolist(), fake.tolist(), strict=True)]
    expected = -sum(math.log(sigmoid(d)) for d in differences) / 3
    assert relativistic_critic_loss(real, fake).item() == pytest.approx(expected, rel=1e-12)
    # A column is no matrix of all pairs.
    assert relativistic_critic_loss(real[:, None], fake).item() == pytest.approx(expected)
    expected = -sum(math.log(sigmoid(-d)) for d in differences) / 3
    assert relativistic_generator_loss(real, fake).item() == pytest.approx(expected, rel=1e-12)


def test_relativistic_losses_take_pairs_alone():
    for loss in (relativistic_critic_loss, relativistic_generator_loss):
        with pytest.raises(ValueError, match=r"^fake_logits: 4 are not allowed with 3 real_logits"):
            loss(logits(REAL), logits(FAKE))
        with pytest.raises(ValueError, match=r"^real_logits: shape \(3, 2\) is not allowed"):
            loss(torch.ones(3, 2), torch.ones(3))
