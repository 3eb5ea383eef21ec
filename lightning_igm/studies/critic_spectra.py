"""Condition numbers of a scaled MMD critic with and without the spectral parametrization.

A small counterpart of Fig. 2 and 9 of "On gradient regularizers for MMD GANs" (Arbel, Sutherland,
Bińkowski and Gretton, 2018, https://arxiv.org/abs/1805.11565), whose runs are on faces: eight
Gaussians on a circle, a critic of four layers and the released scaled MMD, with and without the
parametrization, from the same start::

    python -m lightning_igm.studies.critic_spectra --out runs/critic_spectra

writes ``critic_spectra.png`` and ``critic_spectra.csv``.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_igm.data import RingDataModule
from lightning_igm.losses.jacobians import features_and_squared_jacobian_norms
from lightning_igm.losses.kernels import Gaussian
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.scaled_mmd import smmd_scale
from lightning_igm.networks.spectral import advance_spectral_norms, singular_values, spectral_norm
from lightning_igm.studies._figure import console, figure, out_folder, write_table

__all__ = ["condition_numbers", "main", "train"]

# Widths that fall: the condition number of a square layer is mostly chance.
WIDTHS, LATENT_DIM, BATCH = (2, 64, 32, 16, 1), 8, 200
CRITIC_STEPS, LEARNING_RATE = 5, 1e-3
STEPS, EVERY = 3000, 50


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with leaky ReLUs between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def condition_numbers(critic: nn.Module) -> Tensor:
    """Of the raw weight of each layer but the last, which has one row."""
    return torch.stack([s[0] / s[-1] for s in list(singular_values(critic).values())[:-1]])


def train(
    spectral: bool, steps: int = STEPS, every: int = EVERY, seed: int = 0
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Train by the scaled MMD, and watch.

    Args:
        spectral: Whether the critic's layers are spectrally parametrized, with learnable scales.
        steps: Generator steps.
        every: Generator steps between two yields.
        seed: Of weights, data and noise.

    Yields:
        The step, the condition numbers ``(3,)``, the critic's complexity 1 / scale ``()``, and the
        scaled MMD^2 ``()``.
    """
    torch.manual_seed(seed)
    generator = perceptron(LATENT_DIM, 64, 64, 2)
    critic = perceptron(*WIDTHS)
    if spectral:
        spectral_norm(critic)
    data = RingDataModule(batch_size=BATCH, seed=seed)
    data.setup()
    draw = torch.Generator().manual_seed(seed)
    kernel = Gaussian(1.0)
    adams = [
        torch.optim.Adam(n.parameters(), LEARNING_RATE, (0.5, 0.9)) for n in (generator, critic)
    ]

    def loss() -> tuple[Tensor, Tensor]:
        advance_spectral_norms(critic)
        rows = torch.randint(len(data.train_data), (BATCH,), generator=draw)
        fake = generator(torch.randn(BATCH, LATENT_DIM, generator=draw))
        features, norms = features_and_squared_jacobian_norms(critic, data.train_data[rows])
        scale = smmd_scale(norms)
        return scale * mmd2(kernel, features, critic(fake)), scale

    for step in range(steps):
        for player, sign in [(1, -1.0)] * CRITIC_STEPS + [(0, 1.0)]:
            value, scale = loss()
            network = (generator, critic)[player]
            gradients = torch.autograd.grad(sign * value, list(network.parameters()))
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient
            adams[player].step()
        if (step + 1) % every == 0:
            yield step + 1, condition_numbers(critic), 1 / scale.detach(), value.detach()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both critics, and write the table and the figure."""
    folder = out_folder("critic_spectra", str(__doc__), arguments)
    table: dict[str, Any] = {}
    with figure(folder / "critic_spectra.png", 1, 3, (4.2, 3.4)) as ((layers, complexity, value),):
        for name, spectral, style in (("SMMD", False, "-"), ("SN-SMMD", True, "--")):
            steps, numbers, complexities, values = zip(*train(spectral), strict=True)
            for layer, curve in enumerate(torch.stack(numbers).T, start=1):
                line = f"{name}, layer {layer}"
                layers.plot(steps, curve, style, color=f"C{layer - 1}", label=line)
                table[f"condition number of {line}"] = curve
            complexity.plot(steps, torch.stack(complexities), style, color="k", label=name)
            value.plot(steps, torch.stack(values), style, color="k", label=name)
            table |= {f"critic complexity of {name}": torch.stack(complexities)}
            table |= {f"scaled MMD^2 of {name}": torch.stack(values)}
            table = {"step": list(steps), **table}
        layers.set(title="condition numbers", yscale="log")
        complexity.set(title="critic complexity $\\sigma^{-2}$", yscale="log")
        value.set(title="scaled MMD$^2$ of a batch")
        for axes in (layers, complexity, value):
            axes.set(xlabel="generator steps")
            axes.legend(fontsize="small")
        layers.legend(fontsize="x-small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 0.06))
    write_table(folder / "critic_spectra.csv", table)


if __name__ == "__main__":
    console(main, "critic_spectra")
