"""Losses of Cramer GAN, on features of images."""

import torch
from torch import Tensor

from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.jacobians import Critic, check_separate_images, features_of, suited
from lightning_igm.losses.penalties import interpolates, slope_penalty

__all__ = ["cramer_critic_loss", "cramer_generator_loss", "cramer_penalty"]

_EPSILON = 1e-5


def cramer_critic_loss(real: Tensor, fake: Tensor, other_fake: Tensor) -> Tensor:
    """Loss of the critic: minus the surrogate of the energy distance.

    Algorithm 1 of "The Cramer Distance as a Solution to Biased Wasserstein Gradients" (Bellemare,
    Danihelka, Dabney, Mohamed, Lakshminarayanan, Hoyer and Munos, 2017,
    https://arxiv.org/abs/1705.10743), without its penalty (:func:`cramer_penalty`)::

        -mean(c(x, y) - c(y', y))        c(a, b) = |a - b| - |a|        |v| = sqrt(||v||^2 + 1e-5)

    Args:
        real: Features x of real images, ``(N, D)``.
        fake: Features y of fakes, ``(N, D)``; all three are paired by index.
        other_fake: Features y' of as many other fakes, ``(N, D)``.

    Returns:
        ``()``.

    Raises:
        ValueError: The features have different shapes.

    Example:
        >>> import torch
        >>> real, fake, other = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[2.0, 2.0]]])
        >>> cramer_critic_loss(real, fake, other)
        tensor(-1.0066)
    """
    real, fake, other_fake = _paired(real, fake, other_fake)
    with autocast_off(real):
        return (_critic(other_fake, fake) - _critic(real, fake)).mean()


def cramer_generator_loss(real: Tensor, fake: Tensor, other_fake: Tensor) -> Tensor:
    """Loss of the generator: the energy distance up to a constant.

    Algorithm 1 of the same paper, ``mean(|x - y| + |x - y'| - |y - y'|)``.

    Args:
        real: Features x of real images, ``(N, D)``.
        fake: Features y of fakes, ``(N, D)``; all three are paired by index.
        other_fake: Features y' of as many other fakes, ``(N, D)``.

    Returns:
        ``()``.

    Raises:
        ValueError: The features have different shapes.

    Example:
        >>> import torch
        >>> real, fake, other = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[2.0, 2.0]]])
        >>> cramer_generator_loss(real, fake, other)
        tensor(1.4142)
    """
    real, fake, other_fake = _paired(real, fake, other_fake)
    with autocast_off(real):
        distances = _length(real - fake) + _length(real - other_fake) - _length(fake - other_fake)
        return distances.mean()


def cramer_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
    *,
    fake_features: Tensor | None = None,
) -> Tensor:
    """Mean of ``(||grad f(x_i)|| - 1)^2`` for ``f(x) = c(phi(x), phi(y))``, between real and fake.

    Algorithm 1 of the same paper, without its weight (10 there); the fakes y are paired by index.

    Args:
        critic: phi, maps images ``(N, ...)`` to features ``(N, D)``, each image by itself.
        real: ``(N, ...)``.
        fake: y, ``(N, ...)``.
        generator: As in :func:`~lightning_igm.losses.penalties.gradient_penalty`.
        fake_features: phi(y), where it is known.

    Returns:
        ``()``, of this rank's images: a mean over images, whose mean over ranks is the global one.

    Raises:
        ValueError: The critic's outputs are no features, or it couples images.

    Example:
        >>> import torch
        >>> images = torch.full((2, 1), 100.0)
        >>> round(cramer_penalty(lambda images: 3 * images, images, images).item(), 4)
        4.0
    """
    check_separate_images(critic)
    real, fake = suited(critic, real), suited(critic, fake)
    points = interpolates(real, fake, generator)
    fakes = features_of(critic, fake) if fake_features is None else fake_features
    with torch.enable_grad(), autocast_off(points):
        between, fakes = _paired(features_of(critic, points), fakes[: len(points)])
        values = _critic(between, fakes)
    return slope_penalty(values, points)


def _critic(a: Tensor, b: Tensor) -> Tensor:
    return _length(a - b) - _length(a)


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(1) + _EPSILON).sqrt()


def _paired(*features: Tensor) -> tuple[Tensor, ...]:
    """Features of one shape, in float32 or better."""
    paired = tuple(as_features("features", feature, least=1) for feature in features)
    shapes = [tuple(feature.shape) for feature in paired]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"features: the shapes {', '.join(map(str, shapes))} are not allowed together; they "
            "are paired by index and must be equal"
        )
    return paired
