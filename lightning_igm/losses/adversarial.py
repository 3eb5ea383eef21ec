"""Losses of generative adversarial networks, on the critic's logits or values.

Means are in float32 or better, whatever the precision of the critic.
"""

import torch.nn.functional as F
from torch import Tensor

from lightning_igm.losses._support import as_logits

__all__ = [
    "logistic_critic_loss",
    "non_saturating_generator_loss",
    "relativistic_critic_loss",
    "relativistic_generator_loss",
    "wasserstein_critic_loss",
    "wasserstein_generator_loss",
]


def logistic_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy of telling real from fake images, ``-log D(x) - log(1 - D(g(z)))``.

    "Generative Adversarial Networks" (Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661),
    Algorithm 1, in its minimised form, with D the sigmoid of the critic's logit.

    Args:
        real_logits: ``(N,)``.
        fake_logits: ``(M,)``.

    Returns:
        ``()``, nats; 2 log 2 for a critic that cannot tell.

    Raises:
        ValueError: There are no logits of a kind, several for an image, or they are no real
            numbers; so for all losses of this file.

    Example:
        >>> import torch
        >>> logistic_critic_loss(torch.zeros(4), torch.zeros(4))
        tensor(1.3863)
    """
    real = as_logits("real_logits", real_logits)
    fake = as_logits("fake_logits", fake_logits)
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """The generator's loss ``-log D(g(z))`` (Goodfellow et al., 2014, section 3).

    Args:
        fake_logits: ``(N,)``.

    Returns:
        ``()``, nats.

    Example:
        >>> import torch
        >>> non_saturating_generator_loss(torch.zeros(4))
        tensor(0.6931)
    """
    return F.softplus(-as_logits("fake_logits", fake_logits)).mean()


def relativistic_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The critic's loss where each real is judged beside a fake, ``-log D(x - y)``.

    "The GAN is dead; long live the GAN! A Modern Baseline GAN" (Huang, Gokaslan, Kuleshov and
    Tompkin, 2024, https://arxiv.org/abs/2501.05441), Eq. 2: the mean over pairs of
    ``softplus(-(f(x_i) - f(y_i)))``.

    Args:
        real_logits: ``(N,)``; pairs are made by index.
        fake_logits: ``(N,)``.

    Returns:
        ``()``, nats; log 2 for a critic that cannot tell.

    Raises:
        ValueError: There is another number of fakes.

    Example:
        >>> import torch
        >>> relativistic_critic_loss(torch.zeros(4), torch.zeros(4))
        tensor(0.6931)
    """
    return F.softplus(-_margins(real_logits, fake_logits)).mean()


def relativistic_generator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The generator's part of :func:`relativistic_critic_loss`, with real and fake exchanged.

    Args:
        real_logits: ``(N,)``; pairs are made by index.
        fake_logits: ``(N,)``.

    Returns:
        ``()``, nats.

    Raises:
        ValueError: There is another number of fakes.

    Example:
        >>> import torch
        >>> relativistic_generator_loss(torch.ones(4), torch.zeros(4))
        tensor(1.3133)
    """
    return F.softplus(_margins(real_logits, fake_logits)).mean()


def wasserstein_critic_loss(real_values: Tensor, fake_values: Tensor) -> Tensor:
    """Loss of a Wasserstein critic, ``mean f(g(z)) - mean f(x)``.

    Eq. 2 of "Wasserstein GAN" (Arjovsky, Chintala and Bottou, 2017,
    https://arxiv.org/abs/1701.07875), with the sign of a loss to be minimised.

    Args:
        real_values: ``(N,)``.
        fake_values: ``(M,)``.

    Returns:
        ``()``.

    Example:
        >>> import torch
        >>> wasserstein_critic_loss(torch.ones(4), torch.zeros(4))
        tensor(-1.)
    """
    fake = as_logits("fake_values", fake_values)
    return fake.mean() - as_logits("real_values", real_values).mean()


def wasserstein_generator_loss(fake_values: Tensor) -> Tensor:
    """The generator's part of :func:`wasserstein_critic_loss` with the other sign.

    Args:
        fake_values: ``(N,)``.

    Returns:
        ``()``.

    Example:
        >>> import torch
        >>> wasserstein_generator_loss(torch.ones(4))
        tensor(-1.)
    """
    return -as_logits("fake_values", fake_values).mean()


def _margins(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logits ``(N,)`` of reals less those of the fakes of the same index."""
    real = as_logits("real_logits", real_logits).flatten()
    fake = as_logits("fake_logits", fake_logits).flatten()
    if len(real) != len(fake):
        raise ValueError(
            f"fake_logits: {len(fake)} are not allowed with {len(real)} real_logits; they are "
            "paired by index, and the numbers must be equal"
        )
    return real - fake
