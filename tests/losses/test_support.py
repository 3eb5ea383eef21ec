"""What every loss refuses in one line: no features or logits, none of them, or too many."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_igm.losses import adversarial, kernels, penalties, ratio, scaled_mmd
from lightning_igm.losses.cramer import cramer_critic_loss, cramer_generator_loss, cramer_penalty
from lightning_igm.losses.lipschitz import lipschitz_mmd
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.mmd_gan import one_sided_term

KERNEL = kernels.Gaussian(1.0)
GOOD = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
OF_FEATURES = {
    "cramer critic": lambda x: cramer_critic_loss(x, x, x),
    "cramer generator": lambda x: cramer_generator_loss(x, x, x),
    "mmd2, x": lambda x: mmd2(KERNEL, x, GOOD, estimator="biased"),
    "mmd2, y": lambda x: mmd2(KERNEL, GOOD, x, estimator="biased"),
    "one-sided, x": lambda x: one_sided_term(x, GOOD),
    "one-sided, y": lambda x: one_sided_term(GOOD, x),
    "scale of Eq. 7": lambda x: scaled_mmd.squared_sigma(KERNEL, x, torch.ones(4), 1.0),
    "scale": lambda x: scaled_mmd.smmd_scale(torch.ones(4), x),
    "lipschitz, x": lambda x: lipschitz_mmd(KERNEL, x, GOOD, GOOD, 1.0),
    "lipschitz, z": lambda x: lipschitz_mmd(KERNEL, GOOD, GOOD, x, 1.0),
    "density ratio, q": lambda x: ratio.density_ratio(x, GOOD, 1.0),
    "density ratio, p": lambda x: ratio.density_ratio(GOOD, x, 1.0),
    "median bandwidths": lambda x: ratio.median_bandwidths(GOOD, x),
}
NO_FEATURES = {
    "a number": torch.tensor(1.0),
    "images": torch.rand(4, 3, 2, 2),
    "none": torch.rand(0, 3),
    "no length": torch.rand(4, 0),
    "complex": torch.rand(4, 3) * 1j,
    "a list": GOOD.tolist(),
    "an array": np.ones((4, 3), dtype=np.float32),
}


@pytest.mark.parametrize("bad", NO_FEATURES)
@pytest.mark.parametrize("function", OF_FEATURES)
def test_what_is_no_features_is_refused_in_one_line(function, bad):
    assert OF_FEATURES[function](GOOD).isfinite().all()
    with pytest.raises(ValueError, match=r"^\w+: .*(not allowed|must have)") as error:
        OF_FEATURES[function](NO_FEATURES[bad])
    assert "\n" not in str(error.value)


OF_PAIRS = {
    name: OF_FEATURES[name] for name in OF_FEATURES if "cramer" not in name and "scale" not in name
}


@pytest.mark.parametrize("function", OF_PAIRS)
@pytest.mark.parametrize("features", [torch.rand(4), torch.rand(4, 2)], ids=["(N,)", "(N, 2)"])
def test_features_of_another_length_are_refused_in_one_line(function, features):
    with pytest.raises(ValueError, match=r"^\w+: .* not allowed"):
        OF_PAIRS[function](features)


OF_LOGITS = {
    "critic, real": lambda x: adversarial.logistic_critic_loss(x, torch.ones(4)),
    "critic, fake": lambda x: adversarial.logistic_critic_loss(torch.ones(4), x),
    "generator": adversarial.non_saturating_generator_loss,
    "Wasserstein critic, real": lambda x: adversarial.wasserstein_critic_loss(x, torch.ones(4)),
    "Wasserstein critic, fake": lambda x: adversarial.wasserstein_critic_loss(torch.ones(4), x),
    "Wasserstein generator": adversarial.wasserstein_generator_loss,
}


@pytest.mark.parametrize("bad", [*NO_FEATURES, "several of an image"])
@pytest.mark.parametrize("function", OF_LOGITS)
def test_what_is_no_logits_is_refused_in_one_line(function, bad):
    loss = OF_LOGITS[function]
    logits = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(loss(logits), loss(logits[:, None]))
    with pytest.raises(ValueError, match=r"^\w+_(logits|values): .* is not allowed; it must be"):
        loss(NO_FEATURES.get(bad, GOOD))


OF_IMAGES = {
    "gradient penalty": lambda f, x: penalties.gradient_penalty(f, x, x),
    "witness penalty": lambda f, x: penalties.witness_penalty(KERNEL, f, x, x),
    "constraint": lambda f, x: penalties.sobolev_constraint(f, x, x),
    "cramer penalty": lambda f, x: cramer_penalty(f, x, x),
    "jacobians": scaled_mmd.squared_jacobian_norms,
}


@pytest.mark.parametrize("function", OF_IMAGES)
def test_no_images_are_refused_in_one_line(function):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    OF_IMAGES[function](critic, torch.rand(3, 1, 2, 2))
    with pytest.raises(ValueError, match=r"^images: there are none"):
        OF_IMAGES[function](critic, torch.rand(0, 1, 2, 2))


@pytest.mark.parametrize("norms", [torch.ones(3), torch.ones(4, 1), torch.ones(0), [1.0]])
def test_squared_norms_are_one_for_each_point(norms):
    with pytest.raises(ValueError, match=r"^squared_norms: .* not allowed"):
        scaled_mmd.squared_sigma(KERNEL, GOOD, norms, 1.0)


@pytest.mark.parametrize("values", [[torch.ones(0, 3)], [torch.ones(2), torch.ones(0)]])
def test_activations_of_no_values_are_refused(values):
    with pytest.raises(ValueError, match=r"^activations: .* is not allowed"):
        penalties.activation_penalty(values)


@pytest.mark.parametrize("function", [ratio.pearson_divergence, ratio.projector_loss])
def test_ratios_are_real_numbers(function):
    assert function(torch.tensor([1, 2])) == function(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"^ratio: torch.complex64 is not allowed"):
        function(torch.ones(2) * 1j)
