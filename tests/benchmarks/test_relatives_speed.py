"""What a drifting model's step costs beside an MMD network's, and what sorting saves.

With N fakes and N reals of D pixels, drifting takes 2 N^2 D multiplications for distances and as
many for each temperature, and no gradient goes back through them; an MMD network takes 3 N^2 D for
distances and 4 N^2 D or so for what goes back. Along P directions the energy distance is a sort of
N numbers each.
"""

import pytest
import torch
from timing import interleaved, median_ratio, report

from lightning_igm import DriftingModel, MMDNet
from lightning_igm.losses.kernels import Distance, Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.sliced import random_directions, sliced_energy_distance
from lightning_igm.networks import DCGANGenerator

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
BATCH = 200


def update(kind, **settings):
    """One update's loss and gradient."""
    torch.manual_seed(0)
    generator = DCGANGenerator(latent_dim=64, image_size=32, width=16, kernel_size=4)
    model, real = kind(generator, **settings), torch.rand(BATCH, 3, 32, 32)
    parameters = list(generator.parameters())

    def run():
        loss = model.generator_loss(real, model.generate(BATCH))
        torch.autograd.grad(loss, parameters)

    return run


def test_drifting_costs_little_more_than_an_mmd_network(record_property):
    functions = {"mmd": update(MMDNet, kernel=Gaussian(5.0)), "drifting": update(DriftingModel)}
    rounds = interleaved(functions, rounds=9, processor_time=True)
    ratio = median_ratio(rounds, lambda seconds: seconds["drifting"] / seconds["mmd"])
    report(record_property, "pixels, 200 images: drifting / MMD-net update", ratio, at_most=1.2)


def test_sorting_is_faster_than_all_pairs(record_property):
    torch.manual_seed(0)
    x, y = torch.randn(10_000, 64, requires_grad=True), torch.randn(10_000, 64)
    directions = random_directions(16, x)
    functions = {
        "sorted": lambda: torch.autograd.grad(sliced_energy_distance(x, y, directions), x),
        "pairs": lambda: torch.autograd.grad(mmd2(Distance(), x, y, estimator="biased"), x),
    }
    rounds = interleaved(functions, rounds=1, processor_time=True)
    ratio = median_ratio(rounds, lambda seconds: seconds["pairs"] / seconds["sorted"])
    report(record_property, "10,000 points: energy distance, all pairs / 16", ratio, at_least=20)
