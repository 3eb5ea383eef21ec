"""Maximum mean discrepancy."""

from typing import Literal, get_args

from torch import Tensor

from lightning_igm.distributed import all_mean, gather, rank
from lightning_igm.losses._support import as_features, autocast_off
from lightning_igm.losses.kernels import Kernel

__all__ = ["Estimator", "mmd2"]

Estimator = Literal["unbiased", "biased", "u_statistic"]


def mmd2(kernel: Kernel, x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased") -> Tensor:
    """Squared maximum mean discrepancy of two samples.

    Lemma 6 of "A Kernel Two-Sample Test" (Gretton, Borgwardt, Rasch, Schoelkopf and Smola, 2012,
    https://jmlr.org/papers/v13/gretton12a.html). With m samples x and n samples y::

        biased       sum_ij K(x_i, x_j) / m^2 + sum_ij K(y_i, y_j) / n^2 - 2 mean_ij K(x_i, y_j)
        unbiased     the first two sums without i = j, over m (m - 1) and n (n - 1)
        u_statistic  as unbiased, with the last sum without i = j, over m (m - 1), too; m = n

    What is left out are the kernel's true values on the diagonal, ||x_i||^2 for a linear kernel.
    All but ``biased`` can be negative: take no root of them. Under several ranks the value, the
    same on each, is that of the joined samples, and each rank computes its own rows.

    Args:
        kernel: K.
        x: Features ``(m, D)``; ``(m,)`` counts as D = 1.
        y: Features ``(n, D)``.
        estimator: One of the above.

    Returns:
        ``()``, in float32 or better.

    Raises:
        ValueError: The features do not fit, or a batch is too small for the estimator.

    Example:
        >>> import torch
        >>> from lightning_igm.losses.kernels import Linear
        >>> mmd2(Linear(), torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]), estimator="biased")
        tensor(2.2500)
    """
    _check_estimator(estimator)
    x, y = as_features("x", x), as_features("y", y)
    with autocast_off(x):
        all_x, all_y = gather(x), gather(y)
        m, n = len(all_x), len(all_y)
        _check_sizes(m, n, estimator)
        cross = kernel(x, all_y)
        if estimator == "biased":
            within = _within(kernel, x, all_x, diagonal=True) / m
            within = within + _within(kernel, y, all_y, diagonal=True) / n
        else:
            within = _within(kernel, x, all_x) / (m - 1) + _within(kernel, y, all_y) / (n - 1)
        if estimator == "u_statistic":
            between = (cross.sum() - _own(cross).sum()) / (len(x) * (m - 1))
        else:
            between = cross.mean()
        return all_mean(within - 2 * between)


def _within(kernel: Kernel, own: Tensor, everything: Tensor, diagonal: bool = False) -> Tensor:
    """Mean over own points of their sum of values with all others, or with all points.

    The diagonal goes out as it was computed, and comes in as it is: distances of a point from
    itself may have come out rounded.
    """
    gram = kernel(own, everything)
    total = gram.sum() - _own(gram).sum()
    if diagonal:
        total = total + kernel.diagonal(own).sum()
    return total / len(own)


def _own(gram: Tensor) -> Tensor:
    """Values of this rank's points with the points of the same index."""
    return gram.diagonal(offset=rank() * len(gram))


def _check_estimator(estimator: str) -> None:
    if estimator not in get_args(Estimator):
        raise ValueError(
            f"estimator: {estimator!r} is not allowed; it must be one of "
            f"{', '.join(get_args(Estimator))}"
        )


def _check_sizes(m: int, n: int, estimator: Estimator) -> None:
    least = 1 if estimator == "biased" else 2
    for name, size in (("x", m), ("y", n)):
        if size < least:
            raise ValueError(
                f"{name}: a batch of {size} is not allowed with the {estimator} estimator; it must "
                f"have {least} or more"
            )
    if estimator == "u_statistic" and m != n:
        raise ValueError(
            f"y: a batch of {n} is not allowed with {m} of x and the u_statistic estimator; the "
            "batches must be of one size"
        )
