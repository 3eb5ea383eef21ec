"""The four methods of the ring study, one update of all members of an ensemble at a time.

Each does what the method's Lightning module does with the settings of the comparison in
"Generative Ratio Matching Networks" (Srivastava et al., 2020,
https://openreview.net/forum?id=SJg7spEYDS); kernels have bandwidth 1 throughout.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_igm.data.sampler import epoch_order, stream_seed
from lightning_igm.studies.ring.cells import Cell
from lightning_igm.studies.ring.losses import (
    Grams,
    density_ratio,
    grams,
    mmd_root,
    mmd_root_at_data,
    projector_loss,
)
from lightning_igm.studies.ring.networks import MLP, Adam, Optimizer, RMSprop

__all__ = ["BATCH", "GAN", "MMDGAN", "MODELS", "Ensemble", "GRAMNet", "MMDNet", "batches"]

BATCH = 200
_BLOCK = 20
"""Iterations whose noise is drawn at once."""
_CRITIC_WIDTH = 100
_ROOT_DELTA = 1e-6
_NETWORKS, _NOISE, _SAMPLES = 1, 2, 3  # Streams of a seed; its training order is another.


class Ensemble(ABC):
    """Members that differ in seed, beta2 and regulariser, and share everything else.

    Args:
        cells: One per member.

    Attributes:
        generator: Their generators.
    """

    draws = 1
    """Batches of noise in one iteration."""
    _generator_step: Optimizer

    def __init__(self, cells: Sequence[Cell]) -> None:
        first = cells[0]
        self.seeds = [cell.seed for cell in cells]
        self.latent_dim = first.latent_dim
        self._weights = [
            torch.Generator().manual_seed(stream_seed(seed, _NETWORKS)) for seed in self.seeds
        ]
        self._beta2 = torch.tensor([[cell.beta2 or 0.0] for cell in cells])
        self._networks: list[MLP] = []
        self.generator = self._network(first.latent_dim, first.hidden, first.hidden, first.dim)

    def _network(self, *widths: int) -> MLP:
        self._networks.append(MLP(widths, self._weights))
        return self._networks[-1]

    def _adam(self, network: MLP, rate: float) -> Adam:
        return Adam(network, rate, 0.5, self._beta2)

    @abstractmethod
    def step(self, real: Tensor, noise: Tensor) -> Tensor:
        """One iteration.

        Args:
            real: ``(B, N, D)``.
            noise: ``(B, draws N, latent_dim)``.

        Returns:
            The losses of every member, ``(players, B)``.
        """

    def _descend(self, made: list[Tensor], at_fake: Tensor) -> None:
        """Update the generators, given the losses' derivatives at what they made."""
        slopes = self.generator.slopes(made, at_fake)
        self._generator_step.step(self.generator.gradient(made, slopes))

    def samples(self, n: int) -> Tensor:
        """The same ``(B, n, D)`` samples of every call, but for the generators."""
        noise = [
            torch.randn(
                n,
                self.latent_dim,
                generator=torch.Generator().manual_seed(stream_seed(seed, _SAMPLES)),
            )
            for seed in self.seeds
        ]
        return self.generator(torch.stack(noise))

    def finite(self) -> Tensor:
        """Members whose networks have finite weights, a mask ``(B,)``."""
        return torch.cat([network.flat for network in self._networks], 1).isfinite().all(1)


class GRAMNet(Ensemble):
    """Simultaneous steps on the projector's and the generator's loss, from shared Gram matrices."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        first = cells[0]
        widths = first.dim, _CRITIC_WIDTH, _CRITIC_WIDTH, first.projection or 1
        self.projector = self._network(*widths)
        self._clip = torch.tensor([[cell.regulariser == "clip"] for cell in cells])
        self._projector_step = self._adam(self.projector, 1e-3)
        self._generator_step = self._adam(self.generator, 1e-3)

    def step(self, real: Tensor, noise: Tensor) -> Tensor:
        """See the base class; the losses are the projector's and the generator's."""
        made = self.generator.record(noise)
        seen = self.projector.record(torch.cat((made[-1], real), 1))
        matrices = grams(*seen[-1].chunk(2, 1))
        losses = projector_loss(matrices, density_ratio(matrices), self._clip)
        root, at_q = mmd_root(matrices, _ROOT_DELTA)
        ratio_slopes = self.projector.slopes(seen, torch.cat(losses[1:], 1))
        mmd_slopes = self.projector.slopes([part.chunk(2, 1)[0] for part in seen], at_q)
        at_fake = self.projector.at_inputs(mmd_slopes)
        self._projector_step.step(self.projector.gradient(seen, ratio_slopes))
        self._descend(made, at_fake)
        return torch.stack((losses[0], root))

    def ratio_error(self, real: Tensor, noise: Tensor) -> Tensor:
        """Mean square of the ratio of raw points minus that of projected ones, ``(B,)``."""
        fake = self.generator(noise)
        projected = density_ratio(grams(self.projector(fake), self.projector(real))).values
        return (density_ratio(grams(fake, real)).values - projected).square().mean(1)


class GAN(Ensemble):
    """A discriminator's step, then a generator's on fresh noise, non-saturating."""

    draws = 2

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        self.critic = self._network(cells[0].dim, _CRITIC_WIDTH, _CRITIC_WIDTH, 1)
        self._critic_step = self._adam(self.critic, 1e-4)
        self._generator_step = self._adam(self.generator, 1e-4)

    def step(self, real: Tensor, noise: Tensor) -> Tensor:
        """See the base class; the losses are the discriminator's and the generator's."""
        first, second = noise.chunk(2, 1)
        n = real.shape[1]
        seen = self.critic.record(torch.cat((self.generator(first), real), 1))
        # Of softplus(a) for fakes and softplus(-a) for data, a the logit.
        sign = torch.ones_like(seen[-1])
        sign[:, n:] = -1
        critic_loss = F.softplus(seen[-1] * sign).sum((1, 2)) / n
        slopes = self.critic.slopes(seen, (seen[-1] * sign).sigmoid_().mul_(sign).div_(n))
        self._critic_step.step(self.critic.gradient(seen, slopes))
        made = self.generator.record(second)
        seen = self.critic.record(made[-1])
        generator_loss = F.softplus(-seen[-1]).mean((1, 2))
        slopes = self.critic.slopes(seen, torch.sigmoid(-seen[-1]).div_(-n))
        self._descend(made, self.critic.at_inputs(slopes))
        return torch.stack((critic_loss, generator_loss))


class MMDNet(Ensemble):
    """The root of the squared MMD between the points themselves, by RMSprop."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        self._generator_step = RMSprop(self.generator, 1e-3, alpha=0.9)

    def step(self, real: Tensor, noise: Tensor) -> Tensor:
        """See the base class; the loss is the generator's."""
        made = self.generator.record(noise)
        root, at_fake = mmd_root(grams(made[-1], real), _ROOT_DELTA)
        self._descend(made, at_fake)
        return root[None]


class MMDGAN(Ensemble):
    """The MMD GAN of Li et al. with an autoencoding critic, five of its steps on one minibatch.

    The one-sided term has the features of data and of samples swapped, as in the comparison.
    """

    critic_steps = 5
    draws = critic_steps + 1
    _one_sided_weight, _reconstruction, _clamp = 16.0, 8.0, 0.1

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(cells)
        first = cells[0]
        features = first.projection or 1
        self.encoder = self._network(first.dim, _CRITIC_WIDTH, _CRITIC_WIDTH, features)
        self.decoder = self._network(features, _CRITIC_WIDTH, _CRITIC_WIDTH, first.dim)
        networks = self.encoder, self.decoder, self.generator
        self._encoder_step, self._decoder_step, self._generator_step = [
            self._adam(network, 5e-5) for network in networks
        ]

    def step(self, real: Tensor, noise: Tensor) -> Tensor:
        """See the base class; the losses are the critic's last and the generator's."""
        n = real.shape[1]
        critic_noise, generator_noise = noise.split((self.critic_steps * n, n), 1)
        for fake in self.generator(critic_noise).split(n, 1):
            critic_loss = self._critic_step(real, fake)
        made = self.generator.record(generator_noise)
        seen = self.encoder.record(made[-1])
        matrices = grams(seen[-1], self.encoder(real))
        root, at_q = mmd_root(matrices, _ROOT_DELTA)
        one_sided, slope = self._one_sided(matrices)
        slopes = self.encoder.slopes(seen, at_q - slope)
        self._descend(made, self.encoder.at_inputs(slopes))
        return torch.stack((critic_loss, root + one_sided))

    def _critic_step(self, real: Tensor, fake: Tensor) -> Tensor:
        self.encoder.flat.clamp_(-self._clamp, self._clamp)
        seen = self.encoder.record(torch.cat((fake, real), 1))
        decoded = self.decoder.record(seen[-1])
        matrices = grams(*seen[-1].chunk(2, 1))
        root, at_q = mmd_root(matrices, _ROOT_DELTA)
        at_p = mmd_root_at_data(matrices, root)
        one_sided, slope = self._one_sided(matrices)
        # Means over the elements of fakes and of data, added: twice the mean over both.
        errors = decoded[-1] - seen[0]
        weight = 2 * self._reconstruction / errors[0].numel()
        loss = errors.square().sum((1, 2)) * weight - root - one_sided
        decoder_slopes = self.decoder.slopes(decoded, errors.mul_(2 * weight))
        at_features = self.decoder.at_inputs(decoder_slopes)
        at_features += torch.cat((slope - at_q, -slope - at_p), 1)
        encoder_slopes = self.encoder.slopes(seen, at_features)
        self._decoder_step.step(self.decoder.gradient(decoded, decoder_slopes))
        self._encoder_step.step(self.encoder.gradient(seen, encoder_slopes))
        return loss

    def _one_sided(self, g: Grams) -> tuple[Tensor, Tensor]:
        """The weighted term ``(B,)``, and its gradient ``(B, 1, K)`` at every point of the data."""
        n, features = g.q.shape[1:]
        gap = g.p.mean(1, keepdim=True) - g.q.mean(1, keepdim=True)
        weight = self._one_sided_weight / features
        return gap.relu().sum((1, 2)) * -weight, (gap > 0) * (-weight / n)


MODELS: dict[str, type[Ensemble]] = {
    "gramnet": GRAMNet,
    "gan": GAN,
    "mmdnet": MMDNet,
    "mmdgan": MMDGAN,
}


def batches(ensemble: Ensemble, data: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches for :meth:`Ensemble.step`, with each member's own order of data and noise.

    Args:
        ensemble: The models to train.
        data: ``(N, D)``; an epoch is N // 200 batches.
    """
    rows = BATCH * ensemble.draws
    generators = [torch.Generator().manual_seed(stream_seed(s, _NOISE)) for s in ensemble.seeds]
    whole = len(data) // BATCH
    for epoch in count():
        orders = [epoch_order(len(data), seed, epoch)[: whole * BATCH] for seed in ensemble.seeds]
        real = torch.stack([data[order].view(whole, BATCH, -1) for order in orders], 1)
        for start in range(0, whole, _BLOCK):
            shape = min(_BLOCK, whole - start), rows, ensemble.latent_dim
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators], 1)
            yield from zip(real[start : start + _BLOCK], noise, strict=True)
