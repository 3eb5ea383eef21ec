import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_igm.networks import (
    DCGAN5Critic,
    DCGANCritic,
    ResNetCritic,
    SNGANCritic,
    advance_spectral_norms,
    initialize_weights,
    spectral_norm,
)
from lightning_igm.networks.init import initialize_smmd_weights
from lightning_igm.networks.spectral import (
    SpectralParametrization,
    raw_weight,
    singular_values,
)

CRITICS: list[Callable[..., nn.Module]] = [
    lambda **settings: SNGANCritic(image_size=8, width=2, **settings),
    lambda **settings: DCGAN5Critic(image_size=32, width=2, **settings),
    lambda **settings: ResNetCritic(image_size=32, width=2, **settings),
]
each_critic = pytest.mark.parametrize("make", CRITICS, ids=["SNGAN", "DCGAN5", "ResNet"])


def tiny_critic(scale="learnable", seed=0) -> nn.Sequential:
    """8x8 images, float64."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(27, 2)
    )
    return spectral_norm(layers.double(), scale)


def norms_of(critic: nn.Module) -> list[SpectralParametrization]:
    return [m for m in critic.modules() if isinstance(m, SpectralParametrization)]


def images_for(critic: nn.Module, count: int = 3) -> Tensor:
    shape = getattr(critic, "image_shape", (2, 8, 8))
    draw = torch.Generator().manual_seed(1)
    return torch.rand(count, *shape, generator=draw, dtype=next(critic.parameters()).dtype)


def unit(x):
    return x / (np.sqrt((x**2).sum()) + 1e-12)


def rows_by_outputs(weight: Tensor) -> np.ndarray:
    """The paper's layout, (k k in) x out."""
    array = weight.detach().numpy()
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)  # from (out, in, k, k)
        return array.reshape(-1, array.shape[-1])
    return array.T


# --- one weight -------------------------------------------------------------------------------


def norm_from(weight: Tensor, u: list[float]) -> SpectralParametrization:
    norm = SpectralParametrization(weight, learnable=False)
    norm.u.copy_(torch.tensor(u))
    return norm


def sigma_of(norm: SpectralParametrization, weight: Tensor) -> float:
    """From what the layer sees: weight / sigma."""
    return float(weight.norm() / norm(weight).norm())


def test_sigma_by_iterations() -> None:
    weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    norm = norm_from(weight, [1.0, 1.0])
    sigmas = []
    for _ in range(3):
        norm.advance(weight)
        sigmas.append(sigma_of(norm, weight))
    assert sigmas == pytest.approx([1.8439089, 1.9884281, 1.9992682], abs=5e-8)


def test_gradient_of_sigma_is_v_u() -> None:
    weight = torch.tensor([[2.0, 0.3, 1.0], [0.5, 1.0, -1.0]], dtype=torch.float64)
    norm = norm_from(weight, [1.0, 2.0])
    matrix, u = weight.numpy().T, np.array([1.0, 2.0])  # in x out
    v = unit(u @ matrix.T)
    u = unit(v @ matrix)
    norm.advance(weight)
    leaf = weight.clone().requires_grad_()
    sigma = leaf.square().sum() / (norm(leaf) * leaf).sum()
    (gradient,) = torch.autograd.grad(sigma, leaf)
    np.testing.assert_allclose(sigma.item(), v @ matrix @ u, rtol=1e-12)
    np.testing.assert_allclose(gradient.numpy().T, np.outer(v, u), rtol=1e-10)


@pytest.mark.parametrize("shape", [(4, 6), (5, 3, 3, 3), (2, 3, 4, 4), (1, 7)])
def test_one_iteration_per_step_while_the_weights_change(shape: tuple[int, ...]) -> None:
    """Against the released code's order: iterate from u with the weights of the step, keep u."""
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    norm = SpectralParametrization(weight, learnable=False)
    u = norm.u.numpy().copy()
    for _ in range(4):
        matrix = rows_by_outputs(weight)
        v = unit(u @ matrix.T)
        u = unit(v @ matrix)
        norm.advance(weight)
        np.testing.assert_allclose(norm.u, u, rtol=1e-12)
        expected = weight.numpy() / (v @ matrix @ u)
        np.testing.assert_allclose(norm(weight), expected, rtol=1e-12)
        weight = weight + 0.5 * torch.randn_like(weight)


def test_the_first_vector_is_a_truncated_normal_one() -> None:
    torch.manual_seed(0)
    norm = SpectralParametrization(torch.randn(20_000, 1), learnable=True)
    assert norm.u.norm().item() == pytest.approx(1.0, abs=1e-5)
    # Cut at two standard deviations, it has variance 0.774.
    entries = norm.u * math.sqrt(20_000 * 0.7737)
    assert 1.95 < entries.abs().max().item() < 2.05
    again = SpectralParametrization(torch.randn(20_000, 1), learnable=True)
    assert not torch.equal(again.u, norm.u)


# --- a network --------------------------------------------------------------------------------


def test_passes_change_nothing_and_share_their_weights() -> None:
    critic = tiny_critic()
    images = images_for(critic)
    before = copy.deepcopy(critic.state_dict())
    first, second = critic(images), critic.train()(images)
    evaluated = critic.eval()(images)
    assert torch.equal(first, second)
    assert torch.equal(first, evaluated)
    after = critic.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("training", [True, False])
def test_an_advance_is_one_iteration_in_every_mode(training: bool) -> None:
    critic = tiny_critic().train(training)
    expected = []
    for layer, norm in zip((critic[0], critic[3]), norms_of(critic), strict=True):
        matrix = rows_by_outputs(raw_weight(layer))
        expected.append(unit(unit(norm.u.numpy() @ matrix.T) @ matrix))
    advance_spectral_norms(critic)
    for norm, u in zip(norms_of(critic), expected, strict=True):
        np.testing.assert_allclose(norm.u, u, rtol=1e-12)


def test_an_advance_leaves_plain_networks_alone() -> None:
    critic = DCGANCritic(width=2)
    before = copy.deepcopy(critic.state_dict())
    advance_spectral_norms(critic)
    assert all(torch.equal(value, before[key]) for key, value in critic.state_dict().items())


def test_backward_after_the_next_advance_is_that_of_its_own_pass() -> None:
    critic = tiny_critic()
    parameters = list(critic.parameters())
    output = critic(images_for(critic)).sum()
    expected = torch.autograd.grad(output, parameters, retain_graph=True)
    advance_spectral_norms(critic)
    for gradient, wanted in zip(torch.autograd.grad(output, parameters), expected, strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("scale", ["learnable", "fixed"])
def test_gradients_in_raw_weights_and_scales(scale: str) -> None:
    critic = tiny_critic(scale)
    advance_spectral_norms(critic)
    images = images_for(critic, 2)
    names = [name for name, _ in critic.named_parameters()]

    def outputs(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        result: Tensor = torch.func.functional_call(critic, parameters, (images,))
        return result

    values = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(outputs, values)
    assert torch.autograd.gradgradcheck(outputs, values)


def test_gradient_of_a_penalty_on_image_gradients() -> None:
    critic = tiny_critic()
    advance_spectral_norms(critic)
    images = images_for(critic).requires_grad_()

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
        return gradient.square().sum()

    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(penalty(), parameters, materialize_grads=True)
    step = 1e-6
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for index in {0, flat.numel() // 2, flat.numel() - 1}:
            kept = flat[index].item()
            flat[index] = kept + step
            above = penalty().item()
            flat[index] = kept - step
            below = penalty().item()
            flat[index] = kept
            slope = (above - below) / (2 * step)
            assert gradient.reshape(-1)[index].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_sigma_is_not_a_constant_of_the_gradient() -> None:
    """W / sigma does not change with the length of W: the gradient is orthogonal to W."""
    critic = tiny_critic("fixed")
    advance_spectral_norms(critic)
    weight = raw_weight(critic[3])
    (gradient,) = torch.autograd.grad(critic(images_for(critic)).sum(), weight)
    assert gradient.abs().max() > 1e-3
    assert (gradient * weight).sum().item() == pytest.approx(0.0, abs=1e-12)


@each_critic
@pytest.mark.parametrize("scale", ["learnable", "fixed"])
def test_state_dict_round_trip(make: Callable[..., nn.Module], scale: str) -> None:
    critic, other = make(spectral=scale), make(spectral=scale)
    for _ in range(3):
        advance_spectral_norms(critic)
    other.load_state_dict(critic.state_dict())
    images = images_for(critic)
    assert torch.equal(other(images), critic(images))
    advance_spectral_norms(critic)
    advance_spectral_norms(other)
    assert torch.equal(other(images), critic(images))


@each_critic
def test_scales_are_parameters_or_constants_of_one(make: Callable[..., nn.Module]) -> None:
    learnable, fixed = make(spectral="learnable"), make(spectral="fixed")
    assert learnable.state_dict().keys() == fixed.state_dict().keys()
    assert all(norm.scale.eq(1) for norm in [*norms_of(learnable), *norms_of(fixed)])
    named = dict(learnable.named_parameters())
    scales = [name for name in named if name.endswith("scale")]
    assert len(scales) == len(norms_of(learnable))
    assert named.keys() - set(scales) == dict(fixed.named_parameters()).keys()
    assert not any("bias" in name for name in fixed.state_dict() if "parametrizations" in name)
    images = images_for(learnable)
    advance_spectral_norms(learnable)
    losses = learnable(images).square().sum()
    for gradient in torch.autograd.grad(losses, [named[name] for name in scales]):
        assert gradient.shape == ()
        assert gradient.ne(0)


def test_the_scale_multiplies_the_weight() -> None:
    critic = tiny_critic()
    before = critic[3].weight.detach().clone()
    norms_of(critic)[1].scale.data.fill_(2.5)
    torch.testing.assert_close(critic[3].weight, 2.5 * before)


@each_critic
def test_raw_weights_are_those_of_the_plain_critic(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(3)
    plain = make(spectral="none")
    torch.manual_seed(3)
    critic = make(spectral="learnable")
    assert not norms_of(plain)
    for layer, parametrized in zip(layers_of(plain), layers_of(critic), strict=True):
        assert type(parametrized) is not type(layer)
        assert isinstance(parametrized, nn.Conv2d | nn.Linear)
        assert torch.equal(raw_weight(parametrized), layer.weight)
        assert not torch.equal(parametrized.weight, layer.weight)


def layers_of(critic: nn.Module) -> list[nn.Module]:
    return [module for module in critic.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def test_the_last_layer_may_stay_plain_or_have_a_scale_of_its_own() -> None:
    critic = spectral_norm(DCGANCritic(width=2), "learnable", last_layer=False)
    assert len(norms_of(critic)) == 4
    last = critic.layers[-1]
    assert raw_weight(last) is last.weight
    assert spectral_norm(last, "fixed") is last
    assert len(norms_of(critic)) == 5
    assert sum(name.endswith("scale") for name, _ in critic.named_parameters()) == 4


def test_weights_stay_in_float32_under_autocast() -> None:
    critic = spectral_norm(DCGANCritic(width=4, init="he"))
    other = copy.deepcopy(critic)
    advance_spectral_norms(other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        advance_spectral_norms(critic)
        weights = [layer.weight for layer in layers_of(critic)]
    for weight, expected in zip(weights, layers_of(other), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected.weight)


def test_half_precision_weights_are_divided_by_a_float32_sigma() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 400, dtype=torch.float64)
    norm = SpectralParametrization(weight.bfloat16(), learnable=False)
    assert {norm.u.dtype, norm.v.dtype, norm.scale.dtype} == {torch.bfloat16}
    norm.advance(weight.bfloat16())
    divided = norm(weight.bfloat16())
    assert divided.dtype == torch.bfloat16
    rounded = weight.bfloat16().double()
    sigma = norm.u.double() @ rounded @ norm.v.double()
    torch.testing.assert_close(divided.double(), rounded / sigma, rtol=1.01 * 2**-8, atol=0)


def test_initialisation_reaches_raw_weights() -> None:
    torch.manual_seed(0)
    critic = spectral_norm(DCGANCritic(width=8, hidden_dim=64, init="he"))
    initialize_smmd_weights(critic)
    for layer in layers_of(critic)[:-1]:
        assert raw_weight(layer).abs().max() < 0.06
    initialize_weights(critic, "he", 0.2)
    for layer in layers_of(critic)[:-1]:
        weight = raw_weight(layer)
        std = math.sqrt(2 / 1.04 / weight[0].numel())
        assert weight.std().item() == pytest.approx(std, rel=5 / (2 * weight.numel()) ** 0.5)


# torch's forward-mode derivatives still use torch.jit.script themselves.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_export_compile_and_functional_transforms() -> None:
    critic = SNGANCritic(image_size=8, width=2, spectral="learnable").eval()
    advance_spectral_norms(critic)
    images = images_for(critic, 4)
    expected = critic(images)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(critic, (images,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(images), expected)
    compiled = torch.compile(critic, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)

    parameters = dict(critic.named_parameters())

    def output(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(critic, weights, (image[None],))
        return outputs[0]

    per_image = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(parameters, images)
    mean = torch.autograd.grad(critic(images).mean(), list(parameters.values()))
    for name, gradient in zip(parameters, mean, strict=True):
        torch.testing.assert_close(per_image[name].mean(0), gradient, rtol=1e-4, atol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"^scale='none': allowed are 'learnable', 'fixed'$"):
        spectral_norm(DCGANCritic(width=2), "none")  # type: ignore[arg-type]
    message = r"^network: Sequential has no Conv2d or Linear layer to parametrize$"
    with pytest.raises(ValueError, match=message):
        spectral_norm(nn.Sequential(nn.Flatten()))
    with pytest.raises(ValueError, match=message):
        spectral_norm(nn.Sequential(nn.Linear(1, 1)), last_layer=False)
    with pytest.raises(ValueError, match=r"layer '0' is parametrized already$"):
        spectral_norm(tiny_critic())
    with pytest.raises(ValueError, match=r"^spectral=None: allowed are 'none', 'learnable', "):
        SNGANCritic(width=2, spectral=None)  # type: ignore[arg-type]


# --- singular values --------------------------------------------------------------------------


def test_singular_values_are_those_of_the_raw_weights() -> None:
    critic = SNGANCritic(image_size=8, width=2, spectral="learnable")
    plain = SNGANCritic(image_size=8, width=2)
    for layer, parametrized in zip(layers_of(plain), layers_of(critic), strict=True):
        layer.weight.data.copy_(raw_weight(parametrized))
    found = singular_values(critic)
    named = [(n, m) for n, m in plain.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert list(found) == [name for name, _ in named]
    assert len(found) == 8
    for name, layer in named:
        matrix = rows_by_outputs(layer.weight).astype(np.float64)
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(found[name], expected, rtol=1e-9)


def test_singular_values_of_weights_that_are_not_finite() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data[0, 1] = torch.inf
    (values,) = singular_values(layer).values()
    assert values.isnan().tolist() == [True, True]
