"""Kernels as their formulas, and what is made of them the slow way: by loops and by autograd."""

import torch
from torch import nn
from torch.func import jacrev

from lightning_igm.losses.kernels import (
    Distance,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Linear,
    RationalQuadratic,
    Sum,
)


class Polynomial(Kernel):
    """A kernel that a user may write: not a function of the distance."""

    def gram(self, pairs):
        return (pairs.products / pairs.a.shape[1] + 1) ** 3

    def on_diagonal(self, a):
        return (a.square().mean(1) + 1) ** 3


def rq_dot(weight):
    mixture = [RationalQuadratic(alpha) for alpha in (0.1, 1.0, 10.0)]
    return Sum([*mixture, Linear()], [1.0, 1.0, 1.0, weight])


def length(v):
    return (v.dot(v) + 1e-5).sqrt()


def rq(a, b, alpha):
    return (1 + (a - b).square().sum() / (2 * alpha)) ** -alpha


def gaussian(a, b, bandwidth):
    return torch.exp(-(a - b).square().sum() / (2 * bandwidth**2))


def mixture_of_rq(a, b):
    return sum(rq(a, b, alpha) for alpha in (0.1, 1.0, 10.0))


BANDWIDTHS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)

# Name: the kernel, and its formula for two points.
SMOOTH = {
    "rbf": (Gaussian(1.0), lambda a, b: gaussian(a, b, 1.0)),
    "rbf half": (Gaussian(0.5), lambda a, b: gaussian(a, b, 0.5)),
    "mix_rbf": (
        Sum([Gaussian(h) for h in BANDWIDTHS]),
        lambda a, b: sum(gaussian(a, b, h) for h in BANDWIDTHS),
    ),
    "mix_rq": (Sum([RationalQuadratic(alpha) for alpha in (0.1, 1.0, 10.0)]), mixture_of_rq),
    "mix_rq_01dot": (rq_dot(0.1), lambda a, b: mixture_of_rq(a, b) + 0.1 * a.dot(b)),
    "mix_rq_1dot": (rq_dot(1.0), lambda a, b: mixture_of_rq(a, b) + a.dot(b)),
    "dot": (Linear(), lambda a, b: a.dot(b)),
    "imq": (InverseMultiquadric(1.0), lambda a, b: (1 + (a - b).square().sum()) ** -0.5),
    "imq two": (InverseMultiquadric(2.0), lambda a, b: (4 + (a - b).square().sum()) ** -0.5),
    "nested": (
        Sum([Sum([Gaussian(0.7), Linear()], [2.0, 0.5]), RationalQuadratic(0.3)], [0.5, 3.0]),
        lambda a, b: gaussian(a, b, 0.7) + 0.25 * a.dot(b) + 3 * rq(a, b, 0.3),
    ),
}
KERNELS = SMOOTH | {
    "distance": (Distance(), lambda a, b: length(a) + length(b) - length(a - b)),
    "distance in a sum": (
        Sum([Distance(), Gaussian(1.0)], [0.5, 2.0]),
        lambda a, b: (length(a) + length(b) - length(a - b)) / 2 + 2 * gaussian(a, b, 1.0),
    ),
    "poly": (Polynomial(), lambda a, b: (a.dot(b) / len(a) + 1) ** 3),
}


def points(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_by_loops(formula, a, b):
    return torch.stack([torch.stack([formula(p, q) for q in b]) for p in a])


def mmd2_by_loops(formula, x, y, estimator):
    m, n = len(x), len(y)
    xx = [formula(x[i], x[j]) for i in range(m) for j in range(m) if i != j]
    yy = [formula(y[i], y[j]) for i in range(n) for j in range(n) if i != j]
    if estimator == "biased":
        xx += [formula(p, p) for p in x]
        yy += [formula(p, p) for p in y]
    xy = [
        formula(x[i], y[j])
        for i in range(m)
        for j in range(n)
        if i != j or estimator != "u_statistic"
    ]
    return sum(xx) / len(xx) + sum(yy) / len(yy) - 2 * sum(xy) / len(xy)


def squared_jacobian_norms_by_loops(critic, images, features):
    """One backward pass for every output of every image."""
    norms = []
    for image in images:
        image = image.detach().requires_grad_() if not image.requires_grad else image
        outputs = critic(image[None]).reshape(features)
        rows = [
            torch.autograd.grad(output, image, create_graph=True, materialize_grads=True)[0]
            for output in outputs
        ]
        norms.append(sum(row.square().sum() for row in rows))
    return torch.stack(norms)


class ConvCritic(nn.Module):
    """Smooth, so that second derivatives are not zero; on images (2, 6, 6)."""

    def __init__(self, features, seed=0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 5, 3),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(5, features),
        ).double()
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(0.4 * noise(*parameter.shape, seed=seed + index))

    def forward(self, images):
        outputs = self.layers(images)
        return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs


class FlatCritic(nn.Module):
    """Smooth, from vectors of length 3."""

    def __init__(self, features, seed=0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, features)).double()
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(noise(*parameter.shape, seed=seed + index))

    def forward(self, images):
        return self.layers(images)


def image_kernel(formula, critic):
    """K(phi(y), phi(z)) of two images."""

    def kernel(y, z):
        return formula(critic(y[None]).reshape(-1), critic(z[None]).reshape(-1))

    return kernel


def trace_of_mixed_derivatives(kernel, image):
    """``sum_i d^2 k(y, z) / dy_i dz_i`` at y = z."""
    shape, size = image.shape, image.numel()

    def of_both(both):
        y, z = both.view(2, *shape)
        return kernel(y, z)

    both = torch.cat([image.flatten(), image.flatten()])
    return jacrev(jacrev(of_both))(both)[:size, size:].diagonal().sum()


def functional_gram(kernel, values, slopes):
    """Inner products of the values at points, then all partial derivatives at other points."""
    d = slopes.shape[1]
    n, m = len(values), len(slopes)
    gram = torch.zeros(n + m * d, n + m * d, dtype=torch.float64)
    in_second, in_both = jacrev(kernel, argnums=1), jacrev(jacrev(kernel, argnums=0), argnums=1)
    for i in range(n):
        for j in range(n):
            gram[i, j] = kernel(values[i], values[j])
        for j in range(m):
            block = slice(n + j * d, n + (j + 1) * d)
            gram[i, block] = gram[block, i] = in_second(values[i], slopes[j])
    for i in range(m):
        for j in range(m):
            gram[n + i * d : n + (i + 1) * d, n + j * d : n + (j + 1) * d] = in_both(
                slopes[i], slopes[j]
            )
    return gram


class Programme:
    """``sup { mean f(x) - mean f(y) }`` over functions of an orthonormal basis of the span.

    The span is that of the kernels at all points and of their derivatives at z; images are vectors.
    """

    def __init__(self, kernel, x, y, z):
        m, d = z.shape
        with torch.no_grad():
            gram = functional_gram(kernel, torch.cat([x, y, z]), z)
        eigenvalues, vectors = torch.linalg.eigh(gram)
        kept = eigenvalues > 1e-14 * eigenvalues[-1]
        basis = vectors[:, kept] * eigenvalues[kept].sqrt()
        n = len(x) + len(y)
        self.objective = basis[: len(x)].mean(0) - basis[len(x) : n].mean(0)
        self.values = basis[n : n + m]
        self.slopes = basis[n + m :].view(m, d, -1)

    def maximum_in_the_mean(self, lam, weights=None):
        """Squared, under the mean of squared values and slopes."""
        m = len(self.values)
        weights = torch.full((m,), 1 / m, dtype=torch.float64) if weights is None else weights
        constraint = lam * torch.eye(len(self.objective), dtype=torch.float64)
        constraint += torch.einsum("m,mi,mj->ij", weights, self.values, self.values)
        constraint += torch.einsum("m,mdi,mdj->ij", weights, self.slopes, self.slopes)
        # The linear form is largest on the ellipsoid where the gradients are parallel.
        return self.objective @ torch.linalg.solve(constraint, self.objective)


def gradient(value, parameters):
    gradients = torch.autograd.grad(
        value, list(parameters), create_graph=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def finite_differences(function, parameters, step=1e-5):
    """Central differences of a function of no arguments in every number of the parameters."""
    slopes = []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for index in range(flat.numel()):
            start = flat[index].item()
            flat[index] = start + step
            above = function().item()
            flat[index] = start - step
            below = function().item()
            flat[index] = start
            slopes.append((above - below) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()
