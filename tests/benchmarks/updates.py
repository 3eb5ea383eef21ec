"""The updates that are timed, as plain PyTorch loops make them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_igm.losses.adversarial import (
    logistic_critic_loss,
    non_saturating_generator_loss,
)
from lightning_igm.losses.moments import logits_and_squared_norms, mean_moments
from lightning_igm.networks import AllConvCritic, DCGANCritic, DCGANGenerator


class Updates:
    """One critic, one generator, their Adams and one batch of images and latents."""

    def __init__(self, generator: nn.Module, critic: nn.Module, batch_size: int) -> None:
        self.generator, self.critic = generator, critic
        self.optimizers = {p: torch.optim.Adam(p.parameters(), 1e-6) for p in (generator, critic)}
        self.real = torch.rand(batch_size, *critic.image_shape)
        self.latent = torch.randn(batch_size, generator.latent_dim)
        self.num_moments = sum(p.numel() for p in critic.parameters())
        self.data_moments = torch.zeros(self.num_moments)

    def gan_critic(self) -> None:
        self._critic_step(lambda fake: logistic_critic_loss(self.critic(self.real), fake))

    def molm_critic(self) -> None:
        def loss(fake: Tensor) -> Tensor:
            return self._with_penalty(*logits_and_squared_norms(self.critic, self.real), fake)

        self._critic_step(loss)

    def vmap_critic(self) -> None:
        """The same update by every image's gradient."""

        def logit(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
            return functional_call(self.critic, parameters, (image[None],))[0]

        def loss(fake: Tensor) -> Tensor:
            parameters = dict(self.critic.named_parameters())
            gradients = vmap(grad(logit), (None, 0))(parameters, self.real)
            norms = sum(g.flatten(1).square().sum(1) for g in gradients.values())
            return self._with_penalty(self.critic(self.real), norms, fake)

        self._critic_step(loss)

    def gan_generator(self) -> None:
        loss = non_saturating_generator_loss(self.critic(self.generator(self.latent)))
        self._step(self.generator, loss)

    def molm_generator(self) -> None:
        moments = mean_moments(self.critic, self.generator(self.latent), images_only=True)
        self._step(self.generator, (moments - self.data_moments).square().sum() / 2)

    @torch.no_grad()
    def data_batch(self) -> None:
        """One batch of the pass over the training set."""
        self.data_moments = mean_moments(self.critic, self.real)

    def _with_penalty(self, real_logits: Tensor, norms: Tensor, fake_logits: Tensor) -> Tensor:
        penalty = (norms.mean() / self.num_moments - 1).square()
        return logistic_critic_loss(real_logits, fake_logits) + penalty

    def _critic_step(self, loss: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad():
            fake = self.generator(self.latent)
        self._step(self.critic, loss(self.critic(fake)))

    def _step(self, network: nn.Module, loss: Tensor) -> None:
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizers[network].step()


def make_updates(data: str) -> Updates:
    """The paper's networks at the batch sizes of the requirements."""
    if data == "color_mnist":
        return Updates(DCGANGenerator(), DCGANCritic(), batch_size=200)
    generator = DCGANGenerator(width=128, kernel_size=4, output="tanh")
    return Updates(generator, AllConvCritic(), batch_size=32)


def prepare(data: str, update: str) -> Callable[[], None]:
    """For :func:`timing.peak_memory`."""
    update_once: Callable[[], None] = getattr(make_updates(data), update)
    return update_once
