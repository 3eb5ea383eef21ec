"""Jacobians of a critic's features in its input images, each image by itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_igm.distributed import rank, world_size
from lightning_igm.losses._support import as_features, autocast_off, couples_now, widened

__all__ = [
    "Critic",
    "check_separate_images",
    "features_and_jacobians",
    "features_and_squared_jacobian_norms",
    "features_of",
    "global_rows",
    "squared_jacobian_norms",
    "suited",
]

Critic = Callable[[Tensor], Tensor]
"""Maps images ``(N, ...)`` to features ``(N, D)``, or ``(N,)`` for D = 1."""


def features_and_squared_jacobian_norms(
    critic: Critic,
    images: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Features and ``||J(x_i)||_F^2`` of each image, from one forward pass.

    The norm is summed over pixels, channels and features. It is exact, by one backward pass for a
    batch of all D outputs at once; or an unbiased estimate of Hutchinson's kind, the mean of
    ``||J(x_i)^T v||^2`` over random vectors of signs v (Hutchinson, 1989,
    https://doi.org/10.1080/03610918908812806), exact at D = 1. Both are differentiable in the
    critic's parameters and in the images; under ``torch.no_grad()`` only values are computed.
    Autocast is off: the images are taken in the precision of the critic's weights.

    Args:
        critic: Maps images ``(N, ...)`` to features ``(N, D)`` or ``(N,)``, each image by itself.
        images: ``(N, ...)``.
        probes: Number of random vectors for the estimate; None for the exact norms.
        generator: Source of the random vectors, in the same state on every rank; the global one of
            the images' device by default.

    Returns:
        ``(N, D)`` and ``(N,)``.

    Raises:
        ValueError: The critic couples images by batch normalization, its outputs are no features,
            or there are no probes.

    Example:
        >>> import torch
        >>> critic = torch.nn.Linear(3, 2, bias=False)
        >>> _ = critic.weight.data.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 2.0]]))
        >>> features, norms = features_and_squared_jacobian_norms(critic, torch.ones(1, 3))
        >>> features.tolist(), norms.tolist()
        ([[3.0, 2.0]], [9.0])
    """
    features, images = _traced(critic, images)
    vectors = _basis(features) if probes is None else _signs(features, probes, generator)
    total = _vector_jacobian_products(features, images, vectors).square().sum((0, 2))
    return _kept(features), total if probes is None else total / probes


def squared_jacobian_norms(
    critic: Critic,
    images: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared Frobenius norm of each image's Jacobian, ``||J(x_i)||_F^2``.

    See :func:`features_and_squared_jacobian_norms`.

    Returns:
        ``(N,)``.

    Example:
        >>> import torch
        >>> squared_jacobian_norms(lambda x: x[:, 0] ** 2 + x[:, 1], torch.ones(1, 2)).tolist()
        [5.0]
    """
    return features_and_squared_jacobian_norms(critic, images, probes=probes, generator=generator)[
        1
    ]


def features_and_jacobians(critic: Critic, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(N, D)`` and the Jacobians themselves, ``(N, D, d)``, d pixels.

    See :func:`features_and_squared_jacobian_norms`.

    Example:
        >>> import torch
        >>> features_and_jacobians(lambda x: x**2, torch.tensor([[3.0, 1.0]]))[1].tolist()
        [[[6.0, 0.0], [0.0, 2.0]]]
    """
    features, images = _traced(critic, images)
    products = _vector_jacobian_products(features, images, _basis(features))
    return _kept(features), products.transpose(0, 1)


def check_separate_images(critic: Critic) -> None:
    """Check that a critic that is a module does not couple the images of a batch.

    Raises:
        ValueError: It has batch normalization.
    """
    modules = critic.named_modules() if isinstance(critic, nn.Module) else ()
    for name, module in modules:
        if couples_now(module):
            raise ValueError(
                f"critic: layer {name!r} is a {type(module).__name__}, which couples the images of "
                "a batch, so that an image has no gradient of its own; use a critic without batch "
                "normalization"
            )


def suited(critic: Critic, images: Tensor) -> Tensor:
    """Images in the precision of the critic's weights, or in float32 or better without weights."""
    weight = next(critic.parameters(), None) if isinstance(critic, nn.Module) else None
    return widened(images) if weight is None else images.to(weight.dtype)


def features_of(critic: Critic, images: Tensor) -> Tensor:
    """Features ``(N, D)`` in float32 or better, with autocast off.

    Raises:
        ValueError: There are no images, or the outputs are no features, or not one for each image.
    """
    if len(images) == 0:
        raise ValueError("images: there are none; there must be 1 or more")
    with autocast_off(images):
        outputs = critic(suited(critic, images))
    features = as_features("critic", outputs)
    if len(features) != len(images):
        raise ValueError(
            f"critic: outputs of shape {tuple(outputs.shape)} are not allowed for {len(images)} "
            "images; it must give features (N, D) or (N,)"
        )
    return features


def global_rows(rows: int, draw: Callable[[int], Tensor]) -> Tensor:
    """This rank's rows of what is drawn for the global batch.

    With generators in the same state on every rank, N ranks see what one process would see.

    Args:
        rows: Rows of this rank.
        draw: Draws a given number of rows.
    """
    return draw(world_size() * rows)[rank() * rows : (rank() + 1) * rows]


def _traced(critic: Critic, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features with a graph to the images; and the images they are traced to."""
    check_separate_images(critic)
    images = suited(critic, images)
    images = images if images.requires_grad else images.detach().requires_grad_()
    with torch.enable_grad():
        return features_of(critic, images), images


def _vector_jacobian_products(features: Tensor, images: Tensor, vectors: Tensor) -> Tensor:
    """``v^T J(x_i)`` of shape ``(K, N, d)`` for vectors ``(K, N, D)``."""

    def product(vector: Tensor) -> Tensor:
        (slopes,) = torch.autograd.grad(
            features,
            images,
            vector,
            create_graph=torch.is_grad_enabled(),
            retain_graph=True,
            materialize_grads=True,
        )
        return slopes.reshape(len(images), -1)

    with autocast_off(images):
        if len(vectors) == 1:
            return product(vectors[0])[None]
        # All outputs at once keep a GPU busy; on a CPU they fall out of its caches.
        return torch.vmap(product, chunk_size=1 if images.device.type == "cpu" else None)(vectors)


def _basis(features: Tensor) -> Tensor:
    """Unit vectors ``(D, N, D)``: one output each."""
    outputs = features.shape[1]
    unit = torch.eye(outputs, dtype=features.dtype, device=features.device)
    return unit[:, None].expand(outputs, *features.shape)


def _signs(features: Tensor, probes: int, generator: torch.Generator | None) -> Tensor:
    """Vectors ``(K, N, D)`` of independent signs."""
    if probes < 1:
        raise ValueError(f"probes: {probes} is not allowed; it must be 1 or more, or None")
    device = features.device if generator is None else generator.device

    def draw(rows: int) -> Tensor:
        shape = (rows, probes, features.shape[1])
        return torch.randint(2, shape, generator=generator, device=device)

    signs = 2 * global_rows(len(features), draw) - 1
    return signs.to(features).transpose(0, 1)


def _kept(features: Tensor) -> Tensor:
    return features if torch.is_grad_enabled() else features.detach()
