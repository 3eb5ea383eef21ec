"""The Inception Score."""

import math

import numpy as np
import torch
from torch import Tensor

from lightning_igm.checks import positive

__all__ = ["inception_score"]


@torch.no_grad()
def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over splits of the Inception Score.

    "Improved Techniques for Training GANs" (Salimans et al., 2016,
    https://arxiv.org/abs/1606.03498), per split ``exp mean KL(p(y | x) || mean p(y | x))``. The
    samples are shuffled first and the splits have the edges of torch-fidelity: equal seeds give its
    numbers. One split at a time is held in float64.

    Args:
        logits: ``(N, K)``, of generated images.
        splits: Number of splits.
        seed: Seed of the shuffling.

    Raises:
        ValueError: There are fewer samples than splits, or a number is out of range.

    Example:
        >>> import torch
        >>> mean, std = inception_score(20 * torch.eye(10).repeat(50, 1), splits=1)
        >>> round(mean, 3), std
        (10.0, 0.0)
    """
    positive("splits", splits)
    count = len(logits)
    if logits.ndim != 2 or count < splits:
        raise ValueError(
            f"logits: shape {tuple(logits.shape)} is not allowed with {splits} splits; it must be "
            "(N, K) with N the number of splits or more"
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count)).to(logits.device)
    scores = []
    for split in range(splits):
        rows = order[split * count // splits : (split + 1) * count // splits]
        log_p = logits[rows].double().log_softmax(1)
        marginal = log_p.logsumexp(0) - math.log(len(rows))
        divergence = (log_p.exp() * (log_p - marginal)).sum(1).mean()
        scores.append(float(divergence.exp()))
    return float(np.mean(scores)), float(np.std(scores))
