"""A generator of two parameters whose likelihood is known."""

import torch
from torch import Tensor, nn

from lightning_igm.checks import above_zero

__all__ = ["LocationScale"]


class LocationScale(nn.Module):
    """The generator x = (a + exp(b) z_1, s z_2).

    Args:
        a: Its first parameter.
        b: Its second.
        noise: s, the standard deviation of the coordinate that tells nothing of a and b.

    Raises:
        ValueError: The noise is not positive.

    Example:
        >>> import torch
        >>> LocationScale(1.0, 0.0)(torch.tensor([[2.0, 2.0]]))
        tensor([[3., 6.]], grad_fn=<StackBackward0>)
    """

    latent_dim = 2

    def __init__(self, a: float = 0.0, b: float = 0.0, noise: float = 3.0) -> None:
        super().__init__()
        self.noise = above_zero("noise", noise)
        self.theta = nn.Parameter(torch.tensor([a, b]))

    def forward(self, latent: Tensor, theta: Tensor | None = None) -> Tensor:
        """Points ``(..., 2)`` of latents ``(..., 2)``, for other (a, b) if they are given."""
        a, b = self.theta if theta is None else theta
        return torch.stack([a + b.exp() * latent[..., 0], self.noise * latent[..., 1]], -1)
