"""Losses and gradients of two ranks are those of one process on the joined batch."""

import pytest
import torch
from two_ranks import started

from lightning_igm.distributed import mean_gradients, rank, world_size
from lightning_igm.losses import kernels
from lightning_igm.losses.adversarial import relativistic_critic_loss, wasserstein_critic_loss
from lightning_igm.losses.cramer import cramer_critic_loss, cramer_generator_loss, cramer_penalty
from lightning_igm.losses.drifting import drifting_loss
from lightning_igm.losses.fields import (
    MeanShiftField,
    MMDField,
    SharpField,
    SinkhornField,
    TwoSidedField,
)
from lightning_igm.losses.kernels import Distance, Gaussian, Linear, RationalQuadratic, Sum
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.penalties import (
    activation_penalty,
    gradient_penalty,
    sobolev_constraint,
    witness_penalty,
    zero_centred_penalty,
)
from lightning_igm.losses.repulsive import repulsive_critic_loss
from lightning_igm.losses.scaled_mmd import (
    features_and_squared_jacobian_norms,
    gradient_constrained_mmd2,
    lipschitz_mmd,
    smmd2,
    smmd_scale,
    squared_jacobian_norms,
)
from lightning_igm.losses.sliced import sliced_energy_distance

KERNEL = Sum([Gaussian(0.8), RationalQuadratic(0.5), Linear()], [1.0, 0.5, 0.2])


@pytest.fixture(scope="module")
def ranks():
    return started(2)


def noise(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def own(tensor):
    """This rank's rows."""
    rows = len(tensor) // world_size()
    return tensor[rank() * rows : (rank() + 1) * rows]


def seeded():
    return torch.Generator().manual_seed(5)


def critic_of(first, last):
    return lambda images: torch.tanh(images.flatten(1) @ first) @ last


def single(critic):
    return lambda images: critic(images)[:, 0]


def swgan(critic, real, fake):
    features, norms = features_and_squared_jacobian_norms(single(critic), real)
    scale = smmd_scale(norms, features)
    return scale.sqrt() * wasserstein_critic_loss(features, single(critic)(fake))


def released(critic, real, fake):
    features, norms = features_and_squared_jacobian_norms(critic, real)
    return smmd_scale(norms) * mmd2(Gaussian(1.0), features, critic(fake))


def estimated(critic, real, fake):
    norms = squared_jacobian_norms(critic, real, probes=2, generator=seeded())
    return smmd_scale(norms)


def weighted(critic, real, fake):
    weights = own(torch.linspace(0.1, 0.3, 6, dtype=torch.float64))
    return gradient_constrained_mmd2(KERNEL, critic, real, fake, real, 0.1, weights=weights)


def sobolev(critic, real, fake):
    constraint = sobolev_constraint(single(critic), real, fake)
    return 0.3 * constraint + constraint**2


def cramer(critic, real, fake):
    features = critic(real), critic(fake), critic(fake + 1)
    return cramer_critic_loss(*features) + 2 * cramer_generator_loss(*features)


def drifting(field):
    return lambda c, x, y: drifting_loss(c(y), c(x), temperatures=(0.1, 0.5), field=field)


def relativistic(critic, real, fake):
    penalties = [zero_centred_penalty(single(critic), images) for images in (real, fake)]
    return relativistic_critic_loss(single(critic)(real), single(critic)(fake)) + sum(penalties)


def sliced(critic, real, fake):
    directions = noise(5, 2, seed=6)
    return sliced_energy_distance(critic(fake), critic(real).detach(), directions)


LOSSES = {
    "unbiased": lambda c, x, y: mmd2(KERNEL, c(x), c(y)),
    "biased": lambda c, x, y: mmd2(KERNEL, c(x), c(y), estimator="biased"),
    "root of biased": lambda c, x, y: mmd2(KERNEL, c(x), c(y), estimator="biased").sqrt(),
    "u-statistic": lambda c, x, y: mmd2(Distance(), c(x), c(y[: len(x)]), estimator="u_statistic"),
    "released": released,
    "equation 7": lambda c, x, y: smmd2(KERNEL, c, x, y, x, 0.5),
    "estimated norms": estimated,
    "swgan": swgan,
    "gradient-constrained": lambda c, x, y: gradient_constrained_mmd2(KERNEL, c, x, y, x, 0.1),
    "gradient-constrained at other points": (
        lambda c, x, y: gradient_constrained_mmd2(KERNEL, c, x, y, y, 0.1)
    ),
    "gradient-constrained, weighted": weighted,
    "gradient-constrained, low rank": (
        lambda c, x, y: gradient_constrained_mmd2(KERNEL, c, x, y, x, 0.1, rank=9, tolerance=0.0)
    ),
    "lipschitz": lambda c, x, y: lipschitz_mmd(Gaussian(0.8), c(x), c(y), c(x), 0.1),
    "gradient penalty": lambda c, x, y: gradient_penalty(single(c), x, y, seeded()),
    "witness penalty": lambda c, x, y: witness_penalty(KERNEL, c, x, y, seeded()),
    "sobolev": sobolev,
    "activation penalty": lambda c, x, y: activation_penalty([c(x), c(y).sin()]),
    "cramer": cramer,
    "cramer penalty": lambda c, x, y: cramer_penalty(c, x, y, seeded()),
    "drifting": drifting(TwoSidedField()),
    "drifting, all pairs": drifting(TwoSidedField(mask=False)),
    "drifting, sinkhorn": drifting(SinkhornField(5)),
    "drifting, mean shift": drifting(MeanShiftField("laplace", mask=True)),
    "drifting, sharp": drifting(SharpField()),
    "drifting, mmd": drifting(MMDField(RationalQuadratic(0.5))),
    "drifting by a function": drifting(lambda x, y, t: TwoSidedField()(x, y, t)),
    "relativistic": relativistic,
    "repulsive": lambda c, x, y: repulsive_critic_loss(c(x), c(y), lower=0.01, upper=1.0),
    "repulsive, in between": (
        lambda c, x, y: repulsive_critic_loss(c(x), c(y), weight=0.2, bounded=False)
    ),
    "sliced": sliced,
}
# Of means over a rank's own images, the ranks' mean is the global one.
MEANS = {
    "swgan",
    "gradient penalty",
    "witness penalty",
    "activation penalty",
    "cramer",
    "cramer penalty",
    "relativistic",
}
PAIRED = {
    *("u-statistic", "gradient penalty", "witness penalty", "cramer", "cramer penalty"),
    *("relativistic", "repulsive", "repulsive, in between"),
}


def value_and_gradients(name):
    first, last = noise(8, 3, seed=1).requires_grad_(), noise(3, 2, seed=2).requires_grad_()
    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    real = noise(6, 2, 2, 2, seed=3)
    fake = noise(6 if name in PAIRED else 8, 2, 2, 2, seed=4)
    loss = LOSSES[name](critic_of(first, last), own(real), own(fake) * shift)
    gradients = torch.autograd.grad(loss, [first, last, shift], materialize_grads=True)
    return loss.detach(), mean_gradients(gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_are_one_process_on_the_joined_batch(ranks, name):
    value, gradients = value_and_gradients(name)
    assert gradients[0].any()
    results = ranks.run(value_and_gradients, name)
    mean = (results[0][0] + results[1][0]) / 2
    torch.testing.assert_close(mean, value, rtol=1e-11, atol=0)
    if name not in MEANS:
        assert torch.equal(results[0][0], results[1][0])
    for _, actual in results:
        for g, expected in zip(actual, gradients, strict=True):
            torch.testing.assert_close(g, expected, rtol=1e-9, atol=1e-13)


def mmd_of_two_and_four():
    return mmd2(KERNEL, own(noise(2, 3, seed=1)), own(noise(4, 3, seed=2))).item()


def test_one_image_on_each_rank_is_enough_for_the_unbiased_estimate(ranks):
    expected = mmd_of_two_and_four()
    assert ranks.run(mmd_of_two_and_four) == pytest.approx([expected, expected], rel=1e-12)


def rounded_mmd():
    """By expanded squares in float32, whose rounding is 0.06."""
    kernels._DIRECT_DIFFERENCES, limit = 0, kernels._DIRECT_DIFFERENCES
    try:
        x = own(3000 * noise(6, 2, seed=1)).float()
        return mmd2(Distance(), x, x + 1000, estimator="biased").item()
    finally:
        kernels._DIRECT_DIFFERENCES = limit


def test_the_diagonal_of_a_ranks_rows_is_the_true_one(ranks):
    x = 3000 * noise(6, 2, seed=1)
    expected = mmd2(Distance(), x, x + 1000, estimator="biased").item()
    for actual in ranks.run(rounded_mmd):
        assert actual == pytest.approx(expected, rel=1e-5)
