"""What every network of the package promises."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_igm import networks
from lightning_igm.networks import AllConvCritic, DCGANCritic, DCGANGenerator, HiddenMomentCritic
from lightning_igm.networks.base import SequentialCritic, SequentialGenerator

CRITICS: list[SequentialCritic] = [
    DCGANCritic(width=2, hidden_dim=8, init="he"),
    DCGANCritic(width=2, hidden_dim=None, kernel_size=4, init="he"),
    DCGANCritic(image_size=64, width=2, stride4=True, init="he"),
    AllConvCritic(width=2, init="he"),
    AllConvCritic(width=2, same_padding_everywhere=True, init="he"),
    HiddenMomentCritic(width=8, init="he"),
]
GENERATORS: list[SequentialGenerator] = [
    DCGANGenerator(latent_dim=6, width=4, init="he"),
    DCGANGenerator(latent_dim=6, width=4, kernel_size=4, output="tanh", batch_norm=False),
    DCGANGenerator(latent_dim=6, image_size=64, width=2, stride4=True),
]

each_critic = pytest.mark.parametrize("critic", CRITICS, ids=lambda c: type(c).__name__)
each_generator = pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: type(g).__name__)


def images_for(critic: SequentialCritic, count: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(count, *critic.image_shape)


@each_critic
def test_critic_does_not_couple_the_batch(critic: SequentialCritic) -> None:
    images = images_for(critic).requires_grad_()
    logits = critic(images)
    assert logits.shape == (3,)
    for index in range(3):
        (gradient,) = torch.autograd.grad(logits[index], images, retain_graph=True)
        assert gradient[index].ne(0).any()
        assert gradient[torch.arange(3) != index].eq(0).all()
        torch.testing.assert_close(critic(images[index : index + 1])[0], logits[index])


@each_critic
def test_critic_is_the_same_in_train_and_eval_mode(critic: SequentialCritic) -> None:
    images = images_for(critic)
    evaluated = copy.deepcopy(critic).eval()(images)
    torch.testing.assert_close(critic.train()(images), evaluated, rtol=0, atol=0)
    assert not list(critic.buffers())


@pytest.mark.parametrize("network", [*CRITICS, *GENERATORS], ids=lambda n: type(n).__name__)
def test_nothing_works_in_place(network: nn.Module) -> None:
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    assert not any(isinstance(module, nn.Dropout | nn.Dropout2d) for module in network.modules())


@each_critic
def test_every_critic_parameter_has_a_gradient(critic: SequentialCritic) -> None:
    logits = critic(images_for(critic))
    for gradient in torch.autograd.grad(logits.sum(), list(critic.parameters())):
        assert gradient.isfinite().all()
        assert gradient.ne(0).any()


@each_critic
def test_critic_gradients_can_be_differentiated(critic: SequentialCritic) -> None:
    weights = [p for name, p in critic.named_parameters() if name.endswith("weight")]
    gradients = torch.autograd.grad(critic(images_for(critic)).mean(), weights, create_graph=True)
    norm = sum((g.square().sum() for g in gradients), torch.zeros(()))
    for second in torch.autograd.grad(norm, weights):
        assert second.ne(0).any()


@each_generator
def test_every_generator_parameter_has_a_gradient(generator: SequentialGenerator) -> None:
    torch.manual_seed(2)
    latent = torch.randn(4, generator.latent_dim, requires_grad=True)
    images = generator(latent)
    assert images.shape == (4, *generator.image_shape)
    weighted = (images * torch.randn_like(images)).sum()
    for gradient in torch.autograd.grad(weighted, [latent, *generator.parameters()]):
        assert gradient.isfinite().all()
        assert gradient.ne(0).any()


@each_generator
@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 6, 1, 1)])
def test_wrong_latent_shape(generator: SequentialGenerator, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="latent") as error:
        generator(torch.zeros(shape))
    assert str(error.value) == f"latent of shape (N, 6) expected, found {shape}"


@each_critic
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 3, 16, 16), (2, 1, 32, 32), (2, 3, 32, 31)])
def test_wrong_image_shape(critic: SequentialCritic, shape: tuple[int, ...]) -> None:
    _, height, width = critic.image_shape
    with pytest.raises(ValueError, match="images") as error:
        critic(torch.zeros(shape))
    expected = f"(N, 3, {height}, {width})"
    assert str(error.value) == f"images of shape {expected} expected, found {shape}"


# torch's forward-mode derivatives still use torch.jit.script themselves.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@each_critic
def test_critic_under_functional_transforms(critic: SequentialCritic) -> None:
    images = images_for(critic)
    parameters: dict[str, Tensor] = dict(critic.named_parameters())

    def logit(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(critic, weights, (image[None],))
        return logits[0]

    per_image = torch.func.vmap(torch.func.grad(logit), in_dims=(None, 0))(parameters, images)
    mean = torch.autograd.grad(critic(images).mean(), list(parameters.values()))
    for name, gradient in zip(parameters, mean, strict=True):
        torch.testing.assert_close(per_image[name].mean(0), gradient, rtol=1e-4, atol=1e-5)

    def mean_logit(weights: dict[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(critic, weights, (images,))
        return logits.mean()

    directional = torch.func.jvp(mean_logit, (parameters,), (parameters,))[1]
    expected = sum((p * g).sum() for p, g in zip(parameters.values(), mean, strict=True))
    torch.testing.assert_close(directional, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [CRITICS[0], CRITICS[3], GENERATORS[0]])
def test_export_and_compile(network: SequentialCritic | SequentialGenerator) -> None:
    network = copy.deepcopy(network).eval()
    if isinstance(network, SequentialGenerator):
        inputs = torch.randn(4, network.latent_dim)
    else:
        inputs = images_for(network, 4)
    expected = network(inputs)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(network, (inputs,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(inputs), expected)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), expected)


def test_all_is_sorted_and_complete() -> None:
    assert sorted(networks.__all__) == networks.__all__
    assert all(hasattr(networks, name) for name in networks.__all__)
