"""Losses of generative adversarial networks, on the critic's logits."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["logistic_critic_loss", "non_saturating_generator_loss"]


def logistic_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy of telling real from fake images, ``-log D(x) - log(1 - D(g(z)))``.

    "Generative Adversarial Networks" (Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661),
    Algorithm 1, in its minimised form, with D the sigmoid of the critic's logit.

    Args:
        real_logits: ``(N,)``.
        fake_logits: ``(M,)``.

    Returns:
        ``()``, nats; 2 log 2 for a critic that cannot tell.

    Example:
        >>> import torch
        >>> logistic_critic_loss(torch.zeros(4), torch.zeros(4))
        tensor(1.3863)
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


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
    return F.softplus(-fake_logits).mean()
