"""Every rank's part, as the ranks computed it, against the formula for all of them together."""

import pytest
import torch
from two_ranks import started

from lightning_igm import distributed
from lightning_igm.distributed import all_mean, all_sum, gather, mean_gradients

X = torch.tensor([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]], dtype=torch.float64)
"""A row per rank."""
C, V = (2.0, -0.5), (0.7, 3.0)
"""A number per rank."""


def own(values, **settings):
    value = values[distributed.rank()]
    return value.clone().requires_grad_() if isinstance(value, torch.Tensor) else value


@pytest.fixture(scope="module")
def ranks():
    return started(2)


# --- without a process group ------------------------------------------------------------------


def test_one_process_is_alone():
    x = X[0].clone().requires_grad_()
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert all_sum(x) is x
    assert torch.equal(all_mean(x), x)
    assert gather(x) is x
    gradients = mean_gradients([x, X])
    assert gradients[0] is x
    assert gradients[1] is X


# --- on two ranks -----------------------------------------------------------------------------


def identity():
    return distributed.world_size(), distributed.rank()


def test_two_processes_know_each_other(ranks):
    assert ranks.run(identity) == [(2, 0), (2, 1)]


def first_and_second_derivatives(collective):
    """Of c_r times the cube of a collective of the ranks' x; v_r weighs the first derivatives."""
    x, c, v = own(X), own(C), own(V)
    value = collective(x)
    (first,) = torch.autograd.grad((c * value**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((v * first).sum(), x)
    return value.detach(), first.detach(), second


@pytest.mark.parametrize(("collective", "scale"), [(all_sum, 1.0), (all_mean, 0.5)])
def test_sums_and_means_differentiate_what_all_ranks_compute(ranks, collective, scale):
    """The gradient is that of the sum of all ranks' losses, and so is the gradient's gradient."""
    value = scale * X.sum(0)
    for actual in ranks.run(first_and_second_derivatives, collective):
        torch.testing.assert_close(actual[0], value)
        torch.testing.assert_close(actual[1], sum(C) * 3 * value**2 * scale)
        # Sum over ranks of v_r times the first derivative: it depends on x through the value.
        torch.testing.assert_close(actual[2], sum(V) * sum(C) * 6 * value * scale**2)


def gather_and_differentiate():
    rows, c, v = own(X).reshape(3, 1), own(C), own(V)
    everything = gather(rows)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(6, 1)
    (first,) = torch.autograd.grad((c * weights * everything**3).sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad((v * first).sum(), rows)
    return everything.detach(), first.detach(), second


def test_gathered_rows_carry_the_gradients_of_all_ranks_back(ranks):
    weights = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3, 1)
    rows = X.reshape(2, 3, 1)
    for rank, (everything, first, second) in enumerate(ranks.run(gather_and_differentiate)):
        torch.testing.assert_close(everything, X.reshape(6, 1))
        torch.testing.assert_close(first, sum(C) * weights[rank] * 3 * rows[rank] ** 2)
        # A row's first derivative is on its own rank alone.
        expected = V[rank] * sum(C) * weights[rank] * 6 * rows[rank]
        torch.testing.assert_close(second, expected)


def gather_columns():
    return gather((own(X)[:, None] * torch.arange(2.0)).T.detach())


def test_rows_are_gathered_however_they_lie_in_memory(ranks):
    for everything in ranks.run(gather_columns):
        torch.testing.assert_close(
            everything, (X[:, None] * torch.arange(2.0)[:, None]).flatten(0, 1)
        )


def averaged_gradients():
    rank = distributed.rank()
    first = torch.full((2, 3), 1.0 + rank)
    transposed = (torch.arange(6.0).reshape(2, 3) * (1 - rank)).T
    return mean_gradients([first, torch.tensor(float(rank)), transposed, torch.empty(0, 2)])


def test_gradients_are_averaged_and_keep_their_shapes(ranks):
    for first, scalar, transposed, empty in ranks.run(averaged_gradients):
        assert torch.equal(first, torch.full((2, 3), 1.5))
        assert torch.equal(scalar, torch.tensor(0.5))
        assert torch.equal(transposed, torch.arange(6.0).reshape(2, 3).T / 2)
        assert empty.shape == (0, 2)


# --- the rule: the mean over ranks of what each differentiates is the global loss ---------------


def distance_of_means(x):
    return (all_mean(x.square().mean()) - 2).square()


def distance_of_local_means(x):
    return (x.square().mean() - 2).square()


def own_rows_of_a_kernel(x):
    return (x[:, None] - gather(x)[None, :]).square().mul(-1).exp().mean()


def local_kernel(x):
    return (x[:, None] - x[None, :]).square().mul(-1).exp().mean()


def mean_gradient(loss):
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.sin(weight * X[distributed.rank()] if distributed.world_size() > 1 else weight * X)
    return mean_gradients(torch.autograd.grad(loss(x.flatten()), [weight]))[0]


@pytest.mark.parametrize("loss", [distance_of_means, own_rows_of_a_kernel])
def test_the_mean_gradient_is_that_of_one_process(ranks, loss):
    expected = mean_gradient(loss)
    first, second = ranks.run(mean_gradient, loss)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [distance_of_local_means, local_kernel])
def test_the_mean_gradient_of_local_losses_is_not(ranks, loss):
    first, _ = ranks.run(mean_gradient, loss)
    assert abs(first / mean_gradient(loss) - 1) > 0.01
