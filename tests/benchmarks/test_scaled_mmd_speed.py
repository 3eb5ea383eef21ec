"""What the scaled MMD's critic update costs beside WGAN-GP's, with the same network and batch.

In forward passes of one batch (a backward pass is one more for the inputs and one more for the
weights): WGAN-GP's update is 12: 3 forward (real, fake and the points between), 1 for the points'
gradients, 4 back through the scores and 4 through the gradients. SMMD's is 10: it has no third
batch. With D features the gradients, and what goes back through them, are made D times.

At D = 16 that is 2 + 4 + 16 (1 + 3) = 70 at most, and 2 + 4 + 16 (1 + 2) = 54 where what goes back
needs no gradients in the activations, as with leaky ReLUs: no exact way costs less than 4.5 updates
of WGAN-GP by arithmetic. (``probes`` of the Jacobian's norms estimate them at a chosen cost.)

A loop over the D outputs has the same arithmetic as all of them at once, so nothing exact is
faster by more than what a device loses on small batches. On a CPU that is less than nothing: all
16 at once took 4 times as long as one by one (two cores, batch 32), because they fall out of its
caches. One by one is what is done there.
"""

import pytest
import torch
from timing import interleaved, median_ratio, report

from lightning_igm import SMMDGAN, WGANGP
from lightning_igm.losses.jacobians import features_and_squared_jacobian_norms
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.scaled_mmd import smmd_scale
from lightning_igm.networks import SNGANCritic, SNGANGenerator

pytestmark = pytest.mark.slow
BATCH = 16


def update(kind, out_dim, **settings):
    """One critic update: the loss and its gradient in all of the critic's parameters."""
    torch.manual_seed(0)
    model = kind(SNGANGenerator(width=16), SNGANCritic(width=32, out_dim=out_dim), **settings)
    parameters = list(model.critic.parameters())
    real, fake = torch.rand(2, BATCH, 3, 32, 32)

    def run():
        torch.autograd.grad(model.critic_loss(real, fake), parameters)

    return run


@pytest.mark.parametrize(("out_dim", "limit"), [(1, 1.05), (16, 8.0)])
def test_smmd_costs_no_more_than_wgan_gp(out_dim, limit, record_property):
    functions = {"wgan-gp": update(WGANGP, 1), "smmd": update(SMMDGAN, out_dim)}
    rounds = interleaved(functions, rounds=3)
    ratio = median_ratio(rounds, lambda seconds: seconds["smmd"] / seconds["wgan-gp"])
    report(record_property, f"SMMD, D={out_dim} / WGAN-GP critic update", ratio, at_most=limit)


def looped(critic, real):
    """Squared norms by a backward pass of its own for each output."""
    real = real.clone().requires_grad_()
    features = critic(real)
    total = 0
    for output in features.unbind(1):
        (gradient,) = torch.autograd.grad(output.sum(), real, create_graph=True)
        total = total + gradient.flatten(1).square().sum(1)
    return features, total


def test_a_loop_over_outputs_is_slower(record_property):
    torch.manual_seed(0)
    critic = SNGANCritic(width=32, out_dim=16)
    kernel = SMMDGAN(SNGANGenerator(width=16), critic).kernel
    parameters = list(critic.parameters())
    real, fake = torch.rand(2, BATCH, 3, 32, 32)

    def update_by(norms):
        features, squared = norms(critic, real)
        loss = -smmd_scale(squared) * mmd2(kernel, features, critic(fake))
        return torch.autograd.grad(loss, parameters)

    functions = {
        "loop": lambda: update_by(looped),
        "ours": lambda: update_by(features_and_squared_jacobian_norms),
    }
    for first, second in zip(*(function() for function in functions.values()), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)
    rounds = interleaved(functions, rounds=2)
    ratio = median_ratio(rounds, lambda seconds: seconds["loop"] / seconds["ours"])
    report(record_property, "SMMD, D=16: loop over outputs / ours", ratio, at_least=0.9)
