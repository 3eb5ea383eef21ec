"""Penalties on a critic's gradients in its input, and on its activations."""

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

from lightning_igm.distributed import all_mean, gather
from lightning_igm.losses._support import as_numbers, autocast_off, widened
from lightning_igm.losses.jacobians import (
    Critic,
    check_separate_images,
    features_and_squared_jacobian_norms,
    features_of,
    global_rows,
    suited,
)
from lightning_igm.losses.kernels import Kernel

__all__ = [
    "activation_penalty",
    "gradient_penalty",
    "interpolates",
    "slope_penalty",
    "sobolev_constraint",
    "values_and_sobolev_constraint",
    "values_and_zero_centred_penalty",
    "witness_penalty",
    "zero_centred_penalty",
]

_WITNESS_EPSILON = 1e-5


def gradient_penalty(
    critic: Critic, real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Mean of ``(||grad f(x_i)|| - 1)^2`` at points x_i between real and fake images.

    Eq. 3 of "Improved Training of Wasserstein GANs" (Gulrajani, Ahmed, Arjovsky, Dumoulin and
    Courville, 2017, https://arxiv.org/abs/1704.00028), without its weight (10 there). The norm is
    that of the whole gradient of an image, over channels, rows and columns: for a linear critic the
    penalty is (||w|| - 1)^2. Where a gradient is zero, its norm's gradient counts as zero.

    Args:
        critic: Maps images ``(N, ...)`` to values ``(N,)`` or ``(N, 1)``, each image by itself.
        real: ``(N, ...)``; pairs are made by index, of as many images as the smaller batch has.
        fake: ``(M, ...)``.
        generator: Source of the points' positions, in the same state on every rank; the global one
            of the images' device by default.

    Returns:
        ``()``, of this rank's images: a mean over images, whose mean over ranks is the global one.

    Raises:
        ValueError: The critic has several outputs, or couples images by batch normalization.

    Example:
        >>> import torch
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.ones_(critic[1].weight)
        >>> gradient_penalty(critic, torch.rand(5, 1, 2, 2), torch.rand(5, 1, 2, 2)).item()
        1.0
    """
    check_separate_images(critic)
    points = interpolates(suited(critic, real), suited(critic, fake), generator)
    with torch.enable_grad():
        values = _single(features_of(critic, points))
    return slope_penalty(values, points)


def witness_penalty(
    kernel: Kernel,
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
    *,
    features: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean of ``(||grad f(x_i)|| - 1)^2`` for the witness f of an MMD, between real and fake.

    The gradient penalty of "Demystifying MMD GANs" (Bińkowski, Sutherland, Arbel and Gretton, 2018,
    https://arxiv.org/abs/1801.01401), with the weight 1::

        f(t) = mean_i K(phi(t), phi(x_i)) - mean_j K(phi(t), phi(y_j))

    The norm is that of the whole gradient of an image, as ``sqrt(||.||^2 + 1e-5)``. The witness
    depends on the critic through the features of both samples, too, and so does the gradient.

    Args:
        kernel: K.
        critic: phi, maps images ``(N, ...)`` to features ``(N, D)``, each image by itself.
        real: x, as in :func:`gradient_penalty`.
        fake: y.
        generator: As in :func:`gradient_penalty`.
        features: The critic's features of ``real`` and of ``fake``, where they are known.

    Returns:
        ``()``, of this rank's points, with the witness of all ranks' samples.

    Raises:
        ValueError: The critic's outputs are no features, or it couples images.

    Example:
        >>> import torch
        >>> from lightning_igm.losses.kernels import Linear
        >>> critic = lambda images: 0.5 * images
        >>> witness_penalty(Linear(), critic, torch.zeros(2, 1), torch.full((2, 1), 2.0))
        tensor(0.2500)
    """
    check_separate_images(critic)
    real, fake = suited(critic, real), suited(critic, fake)
    samples = features or (features_of(critic, real), features_of(critic, fake))
    all_real, all_fake = (gather(widened(sample)) for sample in samples)
    points = interpolates(real, fake, generator)
    with torch.enable_grad():
        between = features_of(critic, points)
        witness = kernel(between, all_real).mean(1) - kernel(between, all_fake).mean(1)
    return slope_penalty(witness, points, epsilon=_WITNESS_EPSILON)


def sobolev_constraint(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Mean squared gradient over real and fake images, less one, that Sobolev GAN keeps at zero.

    The constraint of "Sobolev GAN" (Mroueh, Li, Sercu, Raj and Cheng, 2018,
    https://arxiv.org/abs/1711.04894), for the mixture of data and fakes::

        Omega = (mean ||grad f(x)||^2 + mean ||grad f(y)||^2) / 2 - 1

    Args:
        critic: Maps images ``(N, ...)`` to values ``(N,)`` or ``(N, 1)``, each image by itself.
        real: x, ``(N, ...)``.
        fake: y, ``(M, ...)``.

    Returns:
        ``()``, over all ranks' images.

    Raises:
        ValueError: The critic has several outputs, or couples images by batch normalization.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 1)
        >>> sobolev_constraint(lambda image: 3 * image, images, images).item()
        8.0
    """
    return values_and_sobolev_constraint(critic, real, fake)[2]


def values_and_sobolev_constraint(
    critic: Critic, real: Tensor, fake: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The critic's values ``(N,)`` of real and ``(M,)`` of fake images, and the constraint ``()``.

    One forward pass of each batch; see :func:`sobolev_constraint`.
    """
    real_values, real_norms = features_and_squared_jacobian_norms(critic, real)
    fake_values, fake_norms = features_and_squared_jacobian_norms(critic, fake.detach())
    constraint = all_mean((real_norms.mean() + fake_norms.mean()) / 2) - 1
    return _single(real_values), _single(fake_values), constraint


def zero_centred_penalty(critic: Critic, images: Tensor) -> Tensor:
    """Mean of ``||grad f(x_i)||^2`` at images: R1 at reals, R2 at fakes.

    "Which Training Methods for GANs do actually Converge?" (Mescheder, Geiger and Nowozin, 2018,
    https://arxiv.org/abs/1801.04406), without its weight (gamma / 2 there). The norm is that of the
    whole gradient of an image, over channels, rows and columns.

    Args:
        critic: Maps images ``(N, ...)`` to values ``(N,)`` or ``(N, 1)``, each image by itself.
        images: ``(N, ...)``.

    Returns:
        ``()``, of this rank's images: a mean over images, whose mean over ranks is the global one.

    Raises:
        ValueError: The critic has several outputs, or couples images by batch normalization.

    Example:
        >>> import torch
        >>> zero_centred_penalty(lambda images: 3 * images, torch.zeros(2, 1)).item()
        9.0
    """
    return values_and_zero_centred_penalty(critic, images)[1]


def values_and_zero_centred_penalty(critic: Critic, images: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's values ``(N,)`` of images and the penalty ``()``, from one forward pass.

    See :func:`zero_centred_penalty`.
    """
    values, squared_norms = features_and_squared_jacobian_norms(critic, images)
    return _single(values), squared_norms.mean()


def activation_penalty(activations: Iterable[Tensor]) -> Tensor:
    """Sum over layers of the mean square of their activations: an L2 penalty on what a critic says.

    The penalty of "MMD GAN-GP-L2" in "On gradient regularizers for MMD GANs" (Arbel, Sutherland,
    Bińkowski and Gretton, 2018, https://arxiv.org/abs/1805.11565), of weight 1.

    Args:
        activations: ``(N, ...)`` of every layer that counts; those of real and of fake images, each
            a term of its own.

    Returns:
        ``()``, of this rank's images: a mean over images, whose mean over ranks is the global one.

    Raises:
        ValueError: There are none, or none of a layer.

    Example:
        >>> import torch
        >>> activation_penalty([torch.ones(2, 3), torch.tensor([[2.0], [4.0]])])
        tensor(11.)
    """
    layers = [as_numbers("activations", layer) for layer in activations]
    if not layers or any(layer.numel() == 0 for layer in layers):
        shown = [tuple(layer.shape) for layer in layers]
        raise ValueError(
            f"activations: {shown} is not allowed; there must be those of a layer or more, each "
            "with a value or more"
        )
    return reduce(torch.add, [layer.square().mean() for layer in layers])


def interpolates(real: Tensor, fake: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Points ``(1 - u) x + u y`` with one u from U[0, 1] for each pair, leaves of a new graph.

    Args:
        real: x, ``(N, ...)``.
        fake: y, ``(M, ...)``.
        generator: As in :func:`gradient_penalty`.

    Returns:
        ``(min(N, M), ...)``; of a rank's pairs, with that rank's rows of all ranks' u.

    Raises:
        ValueError: The images have different shapes.
    """
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"fake: images of shape {tuple(fake.shape[1:])} are not allowed with real images of "
            f"shape {tuple(real.shape[1:])}; the shapes must be equal"
        )
    pairs = min(len(real), len(fake))
    device = real.device if generator is None else generator.device

    def draw(rows: int) -> Tensor:
        return torch.rand(rows, generator=generator, device=device, dtype=real.dtype)

    u = global_rows(pairs, draw).to(real.device).view(-1, *[1] * (real.dim() - 1))
    return ((1 - u) * real[:pairs] + u * fake[:pairs]).detach().requires_grad_()


def slope_penalty(values: Tensor, points: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Mean of ``(sqrt(||grad v_i||^2 + epsilon) - 1)^2`` for values of points, each by itself.

    Args:
        values: ``(N,)``, with a graph that leads to the points.
        points: ``(N, ...)``.
        epsilon: Keeps the root's gradient bounded; with 0 it counts as zero at a zero gradient.

    Returns:
        ``()``, differentiable in what the values depend on, if gradients are enabled.
    """
    with autocast_off(points):
        (slopes,) = torch.autograd.grad(
            values,
            points,
            torch.ones_like(values),
            create_graph=torch.is_grad_enabled(),
            materialize_grads=True,
        )
        norms: Tensor = torch.linalg.vector_norm(widened(slopes).reshape(len(points), -1), dim=1)
        if epsilon:
            norms = (norms.square() + epsilon).sqrt()
        return (norms - 1).square().mean()


def _single(features: Tensor) -> Tensor:
    """Values ``(N,)`` of a critic with one output."""
    if features.shape[1] != 1:
        raise ValueError(
            f"critic: {features.shape[1]} outputs are not allowed; it must have a single one"
        )
    return features.squeeze(1)
