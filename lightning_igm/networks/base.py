"""What every generator and every critic of the library offers."""

from torch import Tensor, nn

from lightning_igm.networks._checks import check_shape

__all__ = ["LEAKY_SLOPE", "SequentialCritic", "SequentialGenerator"]

LEAKY_SLOPE = 0.2


class SequentialGenerator(nn.Module):
    """A generator whose layers are applied one after the other.

    Args:
        layers: Maps latents of shape ``(N, latent_dim)`` to images of shape ``(N, C, H, W)``.
        latent_dim: Length of a latent vector.
        image_shape: ``(C, H, W)`` of the images made.
        value_range: Smallest and largest value a pixel can take.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        value_range: tuple[float, float],
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.value_range = value_range
        self.layers = layers

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents of shape ``(N, latent_dim)`` to images of shape ``(N, C, H, W)``.

        Raises:
            ValueError: If the latents have another shape.
        """
        check_shape("latent", latent, (self.latent_dim,))
        images: Tensor = self.layers(latent)
        return images


class SequentialCritic(nn.Module):
    """A critic whose layers are applied one after the other.

    Args:
        layers: Maps images of shape ``(N, C, H, W)`` to logits of shape ``(N, 1)``.
        image_shape: ``(C, H, W)`` of the images judged.
    """

    def __init__(self, layers: nn.Sequential, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape ``(N, C, H, W)`` to logits of shape ``(N,)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_shape("images", images, self.image_shape)
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)
