"""Variance of an estimate that matches moments, from theory and from simulation.

The theory of "Learning Implicit Generative Models with Method of Learned Moments" (Ravuri, Mohamed,
Rosca and Vinyals, NIPS workshop 2017), Theorem 1 and Appendix B, on a model whose likelihood is
known: points of the plane x = (a + exp(b) z_1, s z_2) with z ~ N(0, I), of which a and b are
estimated and s is given; the truth is a = b = 0. The simulation is exact but for the numbers of
points: expectations over z are sums over the nodes of a quadrature (which has the
variances right to 1 percent, for perceptrons of six units), and an estimate is the minimum of the
loss, not the place where a training stopped.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from lightning_igm.checks import positive
from lightning_igm.modules import MoLM
from lightning_igm.studies._location_scale import LocationScale

__all__ = [
    "CRAMER_RAO",
    "TRUTH",
    "LocationScale",
    "MomentEstimator",
    "asymptotic_variance",
    "learn_moments",
    "optimal_variance",
]

TRUTH = torch.zeros(2, dtype=torch.float64)
"""a and b of the data."""

CRAMER_RAO = torch.tensor([1.0, 0.5], dtype=torch.float64)
"""N times the least variances that unbiased estimates of a and b can have."""

_NODES = 20, 50  # On the axes of z; critics vary more along the second, which is stretched.
_ITERATIONS, _CONVERGED, _LONGEST_STEP = 100, 1e-8, 0.5
_CHUNK = 400_000  # Points in memory at a time.


def asymptotic_variance(jacobian: Tensor, covariance: Tensor) -> Tensor:
    """V ``(d, d)`` of sqrt(N) (estimate - truth), for the estimate that weighs moments alike.

    That is ``(G^T G)^-1 G^T Sigma G (G^T G)^-1`` (Appendix B). For as many moments as parameters it
    is ``G^-1 Sigma G^-T``: Theorem 1, corrected (in print it is ``G^-T Sigma G^-1``, and Sigma the
    second moment).

    Args:
        jacobian: G, ``(k, d)``, the derivative of the expected moments in the parameters.
        covariance: Sigma, ``(k, k)``, of the data's moments.

    Raises:
        ValueError: The Jacobian's rank is not d: the moments do not identify the parameters.

    Example:
        >>> import torch
        >>> asymptotic_variance(torch.tensor([[2.0], [0.0]]), torch.eye(2))
        tensor([[0.2500]])
    """
    rank, parameters = int(torch.linalg.matrix_rank(jacobian)), jacobian.shape[1]
    if rank < parameters:
        raise ValueError(
            f"jacobian: rank {rank} is not allowed for {parameters} parameters; the moments must "
            "identify them all"
        )
    inverse: Tensor = torch.linalg.pinv(jacobian)
    return inverse @ covariance @ inverse.mT


def optimal_variance(jacobian: Tensor, covariance: Tensor, tolerance: float = 1e-9) -> Tensor:
    """V ``(d, d)`` of the best weighting of the moments, ``(G^T Sigma^-1 G)^-1``.

    Args:
        jacobian: G, ``(k, d)``.
        covariance: Sigma, ``(k, k)``.
        tolerance: Eigenvalues of Sigma below this share of the largest count as 0: the moments of a
            network obey linear relations, which make Sigma singular.

    Example:
        >>> import torch
        >>> optimal_variance(torch.ones(2, 1), torch.diag(torch.tensor([1.0, 3.0])))
        tensor([[0.7500]])
    """
    inverse: Tensor = torch.linalg.pinv(covariance, rtol=tolerance, hermitian=True)
    variance: Tensor = torch.linalg.inv(jacobian.mT @ inverse @ jacobian)
    return variance


def learn_moments(
    critic: nn.Module,
    generator: LocationScale,
    steps: int = 300,
    rate: float = 1e-2,
    batch_size: int = 256,
    penalty_weight: float = 1.0,
    seed: int = 0,
) -> None:
    """Train a critic on data and on samples of a generator that is not there yet, as MoLM does.

    Args:
        critic: Maps points ``(N, 2)`` to logits ``(N,)``.
        generator: Whose samples it tells from the data.
        steps: Steps of Adam.
        rate: Its learning rate.
        batch_size: Points of either kind in a step.
        penalty_weight: lambda of Eq. 2.
        seed: Of the points.
    """
    model = MoLM(generator, critic, penalty_weight=penalty_weight)
    optimizer = torch.optim.Adam(critic.parameters(), rate)
    stream = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            real, fake = (
                generator(model.sample_latent(batch_size, stream), theta)
                for theta in (torch.zeros(2), None)
            )
        optimizer.zero_grad()
        model.critic_loss(real, fake).backward()
        optimizer.step()


class MomentEstimator:
    """Estimates of a and b that match the moments ``Phi(x) = grad_phi f_phi(x)`` of a critic.

    Args:
        critic: f, maps points ``(N, 2)`` to logits ``(N,)``; its parameters are taken as they are
            now, in float64.
        noise: s, the standard deviation of the coordinate that tells nothing of a and b.
        keep: Numbers of the moments that are matched, in the order of the critic's parameters; all
            by default.

    Raises:
        ValueError: The noise is not positive.

    Example:
        >>> from lightning_igm.networks import MLPCritic
        >>> estimator = MomentEstimator(MLPCritic(hidden=(6,), activation="tanh"))
        >>> estimator.covariance().shape  # 6 (2 + 1) and 6 + 1 parameters
        torch.Size([25, 25])
    """

    def __init__(
        self, critic: nn.Module, noise: float = 3.0, keep: Sequence[int] | None = None
    ) -> None:
        self._model = LocationScale(noise=noise)
        self._critic, self._keep = critic, slice(None) if keep is None else list(keep)
        self._parameters = {name: p.detach().double() for name, p in critic.named_parameters()}
        axes = [map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(n)) for n in _NODES]
        nodes, weights = zip(*axes, strict=True)
        self._nodes = torch.cartesian_prod(*nodes)
        self._weights = torch.outer(*weights).flatten()
        self._weights = self._weights / self._weights.sum()

    def moments(self, points: Tensor) -> Tensor:
        """Moments ``(N, k)`` of points ``(N, 2)``."""
        moments: Tensor = vmap(lambda point: self.mean_moments(point[None]))(points)
        return moments

    def mean_moments(self, points: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean ``(k,)`` of the moments of points ``(N, 2)``, by weights ``(N,)`` that add to 1."""
        gradients: dict[str, Tensor] = grad(self._mean_logit)(self._parameters, points, weights)
        return torch.cat([gradient.flatten() for gradient in gradients.values()])[self._keep]

    def expected_moments(self, theta: Tensor) -> Tensor:
        """e(theta), ``(k,)``, the expectation of the moments of the model's points."""
        return self.mean_moments(self._model(self._nodes, theta), self._weights)

    def _mean_logit(
        self, parameters: dict[str, Tensor], points: Tensor, weights: Tensor | None
    ) -> Tensor:
        logits: Tensor = functional_call(self._critic, parameters, (points,)).flatten()
        return logits.mean() if weights is None else weights @ logits

    def _slopes(self, theta: Tensor, latents: Tensor, weights: Tensor | None) -> Tensor:
        """Derivative ``(k, 2)`` of mean moments in theta, as that of the mean slope in phi."""

        def slope(parameters: dict[str, Tensor]) -> Tensor:
            def mean_logit(theta: Tensor) -> Tensor:
                return self._mean_logit(parameters, self._model(latents, theta), weights)

            found: Tensor = grad(mean_logit)(theta)
            return found

        rows: dict[str, Tensor] = jacrev(slope)(self._parameters)
        return torch.cat([row.flatten(1) for row in rows.values()], 1).mT[self._keep]

    # --- theory ---------------------------------------------------------------------------------

    def jacobian(self) -> Tensor:
        """G ``(k, 2)``, the derivative of e at the truth."""
        return self._slopes(TRUTH, self._nodes, self._weights)

    def second_moment(self) -> Tensor:
        """E Phi Phi^T ``(k, k)`` of the data."""
        moments = self.moments(self._model(self._nodes, TRUTH))
        return moments.mT @ (self._weights[:, None] * moments)

    def covariance(self) -> Tensor:
        """Sigma ``(k, k)``, Cov Phi of the data."""
        mean = self.expected_moments(TRUTH)
        return self.second_moment() - torch.outer(mean, mean)

    def predicted(self) -> Tensor:
        """N times the variances ``(2,)`` of the estimates of a and b, in the limit of large N."""
        return asymptotic_variance(self.jacobian(), self.covariance()).diagonal()

    def best(self) -> Tensor:
        """The same for the best weighting of the moments."""
        return optimal_variance(self.jacobian(), self.covariance()).diagonal()

    # --- simulation -----------------------------------------------------------------------------

    def simulated(
        self, size: int, replicates: int, fakes_per_point: int | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """N times the variances of estimates from N points, and their standard errors, ``(2,)``.

        Args:
            size: N.
            replicates: Number of data sets.
            fakes_per_point: H, for estimates that match the mean moments of H N generated points,
                of the same latents for all a and b, instead of expected moments.
            seed: Of data and latents.

        Raises:
            ValueError: A number is not positive.
            RuntimeError: An estimate was not found.
        """
        positive("size", size), positive("replicates", replicates)
        generator = torch.Generator().manual_seed(seed)
        fakes = (
            0 if fakes_per_point is None else positive("fakes_per_point", fakes_per_point) * size
        )
        found = []
        for count in _parts(replicates, size + (fakes or len(self._nodes))):
            shape = count, size + fakes, 2
            latents = torch.randn(shape, dtype=torch.float64, generator=generator)
            data = self._model(latents[:, :size], TRUTH)
            found.append(self.estimates(data, latents[:, size:] if fakes else None))
        estimates = torch.cat(found)
        squares = (estimates - estimates.mean(0)).square()
        # The standard error of a mean of squares makes no assumption about their law.
        return size * squares.sum(0) / (replicates - 1), size * squares.std(0) / replicates**0.5

    def estimates(self, data: Tensor, latents: Tensor | None = None) -> Tensor:
        """Minima ``(R, 2)`` of ``||e(theta) - mean Phi||^2`` for data sets ``(R, N, 2)``.

        Found by Gauss-Newton steps from the truth.

        Args:
            data: ``(R, N, 2)``.
            latents: ``(R, M, 2)``, what the model's mean is taken over instead of all latents.

        Raises:
            RuntimeError: One was not found.
        """
        targets = vmap(self.mean_moments)(data)
        theta = TRUTH.repeat(len(data), 1)
        for _ in range(_ITERATIONS):
            step = vmap(self._step)(theta, targets, *([] if latents is None else [latents]))
            theta = theta + step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
            if step.abs().max() < _CONVERGED:
                return theta
        raise RuntimeError(f"estimates: not found in {_ITERATIONS} Gauss-Newton steps")

    def _step(self, theta: Tensor, target: Tensor, latents: Tensor | None = None) -> Tensor:
        """A Gauss-Newton step ``(2,)``."""
        nodes = self._nodes if latents is None else latents
        weights = self._weights if latents is None else None
        expected = self.mean_moments(self._model(nodes, theta), weights)
        slopes = self._slopes(theta, nodes, weights)
        step: Tensor = torch.linalg.pinv(slopes) @ (target - expected)
        return step


def _parts(replicates: int, points: int) -> Iterator[int]:
    """Replicates at a time, so that not too many points are in memory."""
    most = max(1, _CHUNK // points)
    for start in range(0, replicates, most):
        yield min(most, replicates - start)
