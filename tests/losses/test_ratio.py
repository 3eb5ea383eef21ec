"""The ratio against explicit solves in float64, its closed-form gradients against autograd."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lightning_igm.losses import ratio as module
from lightning_igm.losses.kernels import Gaussian, Sum
from lightning_igm.losses.mmd import mmd2
from lightning_igm.losses.ratio import (
    biased_mmd2,
    condition_numbers,
    density_ratio,
    estimate_ratio,
    gram_matrices,
    median_bandwidths,
    mmd_root,
    pearson_divergence,
    projector_loss,
    ratio_error,
    ratio_of,
)

Q = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
P = torch.tensor([0.5, 1.5, 2.5, 3.0], dtype=torch.float64)


def noise(*shape, seed=1, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=draw)


# --- the slow way -----------------------------------------------------------------------------


def kernel_by_loops(a, b, sigma):
    values = [[torch.exp(-(x - y).square().sum() / (2 * sigma**2)) for y in b] for x in a]
    return torch.stack([torch.stack(row) for row in values])


def kernel(a, b, sigma):
    return (-(a[:, None] - b[None]).square().sum(-1) / (2 * sigma**2)).exp()


def ratio_by_inverse(q, p, sigmas, jitter=1e-3, gram=kernel):
    terms = []
    for sigma in sigmas:
        matrix = gram(q, q, sigma) + jitter * torch.eye(len(q), dtype=q.dtype)
        right = gram(q, p, sigma).sum(1)
        terms.append(len(q) / len(p) * torch.linalg.solve(matrix, right))
    return torch.stack(terms).mean(0)


def mmd2_of_matrices(q, p, sigmas, gram=kernel):
    return sum(
        gram(q, q, s).mean() - 2 * gram(q, p, s).mean() + gram(p, p, s).mean() for s in sigmas
    )


def gradients(value, *inputs):
    return torch.autograd.grad(value, inputs)


def assert_close(actual, expected, tolerance=1e-8):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- values -----------------------------------------------------------------------------------

TABLE = {
    (1.0,): {
        "ratio": (0.5580953276, 0.2379516133, 1.8004772836),
        "mean": 0.8655080749,
        "pearson": 0.4722537883,
        "mmd2": 0.1773534214,
        "root": 0.4211334959,
        "losses": (-1.3377618631, -3.0687780128, -0.4722537883, -0.4722537883),
        "gradients": (1.81703642, -0.38558591),
    },
    (1.0, 2.0): {
        "ratio": (0.7322132569, -0.3399933582, 2.3698751606),
        "mean": 0.9206983531,
        "pearson": 1.2479499651,
        "mmd2": 0.2931712960,
        "root": 0.5414529490,
        "losses": (-2.1686483182, -4.0100450244, -1.2479499651, -0.9827558985),
        "gradients": (2.60731738, -0.52425938),
    },
}


@pytest.mark.parametrize("sigmas", TABLE)
def test_exact_values(sigmas):
    expected = TABLE[sigmas]
    grams = gram_matrices(Q, P, sigmas)
    ratio = ratio_of(grams)
    assert ratio.tolist() == pytest.approx(expected["ratio"], abs=1e-10)
    assert ratio.mean().item() == pytest.approx(expected["mean"], abs=1e-10)
    assert pearson_divergence(ratio).item() == pytest.approx(expected["pearson"], abs=1e-10)
    assert biased_mmd2(grams).item() == pytest.approx(expected["mmd2"], abs=1e-10)
    root = mmd_root(biased_mmd2(grams), delta=0)
    assert root.item() == pytest.approx(expected["root"], abs=1e-10)
    losses = [projector_loss(ratio, name).item() for name in ("mean", "sum", "none", "clip")]
    assert losses == pytest.approx(expected["losses"], abs=1e-10)


def test_integers_count_as_numbers():
    q, p = torch.tensor([0, 1, 3]), torch.tensor([[0], [2]], dtype=torch.uint8).squeeze(1)
    assert torch.equal(density_ratio(q, p, [1.0]), density_ratio(q.float(), p.float(), [1.0]))
    assert torch.equal(median_bandwidths(q, p), median_bandwidths(q.float(), p.float()))


@pytest.mark.parametrize("one", [2, 2.0, torch.tensor(2.0), torch.tensor([2.0])])
def test_one_bandwidth_needs_no_list(one):
    assert torch.equal(density_ratio(Q, P, one), density_ratio(Q, P, [2.0]))


@pytest.mark.parametrize("sigmas", TABLE)
def test_exact_values_in_float32(sigmas):
    ratio = density_ratio(Q.float(), P.float(), sigmas)
    assert ratio.dtype == torch.float32
    assert ratio.tolist() == pytest.approx(TABLE[sigmas]["ratio"], abs=1e-4)


def linear_model(sigmas):
    """f(x) = theta x and G(z) = z + gamma, at theta = 1 and gamma = 0."""
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    gamma = torch.zeros((), dtype=torch.float64, requires_grad=True)
    return theta, gamma, gram_matrices(theta * (Q + gamma), theta * P, sigmas)


@pytest.mark.parametrize("sigmas", TABLE)
def test_exact_gradients_of_a_linear_model(sigmas):
    theta, gamma, grams = linear_model(sigmas)
    (of_theta,) = gradients(projector_loss(ratio_of(grams)), theta)
    assert of_theta.item() == pytest.approx(TABLE[sigmas]["gradients"][0], abs=1e-8)
    theta, gamma, grams = linear_model(sigmas)
    (of_gamma,) = gradients(mmd_root(biased_mmd2(grams), delta=0), gamma)
    assert of_gamma.item() == pytest.approx(TABLE[sigmas]["gradients"][1], abs=1e-8)


WRONG = {
    "no factor": ((1.0,), (0.7441271035, 0.3172688178, 2.4006363782)),
    "no jitter": ((1.0,), (0.5599670556, 0.2350475586, 1.8037858483)),
    "sum for mean": ((1.0, 2.0), (1.4644265138, -0.6799867164, 4.7397503212)),
    "variances": ((1.0, 2.0), (0.6623368303, -0.0689443658, 2.1146510525)),
}


@pytest.mark.parametrize("slip", WRONG)
def test_known_slips_give_other_values(slip):
    """The known wrong answers come out of the slips, and not of us."""
    sigmas, wrong = WRONG[slip]
    q, p = Q[:, None], P[:, None]
    slips = {
        "no factor": lambda: ratio_by_inverse(q, p, sigmas) * 4 / 3,
        "no jitter": lambda: ratio_by_inverse(q, p, sigmas, jitter=0),
        "sum for mean": lambda: ratio_by_inverse(q, p, sigmas) * len(sigmas),
        "variances": lambda: ratio_by_inverse(q, p, [s**0.5 for s in sigmas]),
    }
    assert slips[slip]().tolist() == pytest.approx(wrong, abs=1e-9)
    ours = density_ratio(Q, P, sigmas)
    assert max(abs(a - b) for a, b in zip(ours.tolist(), wrong, strict=True)) > 1e-3


def test_equal_samples():
    ratio = density_ratio(Q, Q, [1.0])
    assert ratio.tolist() == pytest.approx((0.9990180313, 1.0001909973, 0.9990180313), abs=1e-9)
    assert density_ratio(Q, Q, [1.0], jitter=1e-15).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


# --- against the slow way ---------------------------------------------------------------------

SIZES = {"as many": (6, 6), "fewer": (5, 9), "more": (9, 4)}
SIGMAS = (0.7, 1.5, 4.0)


@pytest.mark.parametrize(("n_q", "n_p"), SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_loops_and_autograd(n_q, n_p):
    inputs = [noise(n_q, 3).requires_grad_(), (noise(n_p, 3, seed=2) + 0.3).requires_grad_()]
    grams = gram_matrices(*inputs, SIGMAS)
    for name, (a, b) in {"qq": (0, 0), "qp": (0, 1), "pp": (1, 1)}.items():
        slow = [kernel_by_loops(inputs[a], inputs[b], sigma) for sigma in SIGMAS]
        assert_close(getattr(grams, name), torch.stack(slow).detach(), 1e-14)
    ratio = ratio_of(grams)
    expected = ratio_by_inverse(*inputs, SIGMAS, gram=kernel_by_loops)
    assert_close(ratio, expected, 1e-10)
    direction = noise(n_q, seed=3)
    assert_close(gradients(ratio @ direction, *inputs), gradients(expected @ direction, *inputs))
    assert_close(biased_mmd2(grams), mmd2_of_matrices(*inputs, SIGMAS), 1e-13)
    assert_close(
        gradients(biased_mmd2(grams), *inputs),
        gradients(mmd2_of_matrices(*inputs, SIGMAS), *inputs),
        1e-12,
    )


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_a_training_batch_equals_a_solve_in_float64(scale):
    inputs = [noise(200, 10, scale=1.2) + 0.5, noise(200, 10, seed=2)]
    inputs = [(scale * points).requires_grad_() for points in inputs]
    ratio, expected = density_ratio(*inputs, [1.0, 3.0]), ratio_by_inverse(*inputs, [1.0, 3.0])
    assert_close(ratio, expected)
    actual = gradients(projector_loss(ratio), *inputs)
    assert_close(actual, gradients(projector_loss(expected), *inputs))


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_float32_loses_nothing_but_the_last_digits(scale):
    inputs = [scale * (noise(200, 2, scale=1.2) + 0.5), scale * noise(200, 2, seed=2)]
    wide = [points.float().double().requires_grad_() for points in inputs]
    narrow = [points.float().requires_grad_() for points in inputs]
    expected, actual = density_ratio(*wide, [1.0]), density_ratio(*narrow, [1.0])
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 1e-6 * expected.norm()
    for one, other in zip(
        gradients(projector_loss(actual), *narrow),
        gradients(projector_loss(expected), *wide),
        strict=True,
    ):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_far_from_zero_float32_keeps_the_digits():
    q, p = (noise(30, 3) + 1000).float(), (noise(40, 3, seed=2) + 1000).float()
    expected = gram_matrices(q.double() - 1000, p.double() - 1000, [0.5])  # These are exact.
    actual = gram_matrices(q, p, [0.5])
    for name in ("qq", "qp", "pp"):
        assert_close(getattr(actual, name), getattr(expected, name), 1e-10)
    near = torch.tensor([[1000.0], [1000.0 + 2**-10]])
    exponent = -gram_matrices(near, near, [2**-10]).qp.log()[0, 0, 1]
    assert exponent.item() == pytest.approx(0.5, rel=1e-9)


def test_far_from_zero_float64_keeps_the_digits():
    q, p = noise(30, 3), noise(40, 3, seed=2)
    actual = gram_matrices(q + 1e6, p + 1e6, [0.5])
    assert_close(actual.matrix, gram_matrices(q, p, [0.5]).matrix, 1e-8)


def test_diagonals_are_exactly_one():
    q, p = noise(50, 7, scale=100).float(), noise(60, 7, seed=2, scale=100).float()
    for points in (q, q.double() / 3):
        grams = gram_matrices(points, p, SIGMAS)
        for gram in (grams.qq, grams.pp):
            assert (gram.diagonal(0, -2, -1) == 1).all()


def test_it_is_the_librarys_biased_mmd():
    q, p = noise(6, 3), noise(8, 3, seed=2)
    expected = mmd2(Sum([Gaussian(sigma) for sigma in SIGMAS]), q, p, estimator="biased")
    assert_close(biased_mmd2(gram_matrices(q, p, SIGMAS)), expected, 1e-13)


def test_identical_samples_have_finite_gradients():
    q = noise(20, 3).float().requires_grad_()
    p = q.detach().clone().requires_grad_()
    grams = gram_matrices(q, p, [1.0])
    root = mmd_root(biased_mmd2(grams))
    assert root.item() == pytest.approx(1e-3, rel=0.1)
    for value in (root, projector_loss(ratio_of(grams))):
        for gradient in gradients(value, q, p):
            assert gradient.isfinite().all()


def test_second_derivatives_are_an_error():
    q, p = noise(4, 2).requires_grad_(), noise(5, 2, seed=2)
    for function in (density_ratio, lambda *a: biased_mmd2(gram_matrices(*a))):
        value = function(q, p, [1.0]).sum()
        with pytest.raises(RuntimeError, match="have no second derivatives"):
            torch.autograd.grad(value, q, create_graph=True)


def test_ensembles_are_their_members():
    q, p = noise(3, 6, 4).requires_grad_(), noise(3, 5, 4, seed=2).requires_grad_()
    grams = gram_matrices(q, p, SIGMAS)
    ratio, escalations = estimate_ratio(grams)
    values = projector_loss(ratio), mmd_root(biased_mmd2(grams)), condition_numbers(grams)
    assert ratio.shape == (3, 6)
    assert escalations.shape == values[0].shape == values[1].shape == (3,)
    medians = median_bandwidths(q, p, [1.0, 2.0])
    assert medians.shape == (3, 2)
    by_median = density_ratio(q, p, medians)
    total = gradients(values[0].sum() + values[1].sum(), q, p)
    for index in range(3):
        own = [points[index].detach().requires_grad_() for points in (q, p)]
        single = gram_matrices(*own, SIGMAS)
        parts = projector_loss(ratio_of(single)), mmd_root(biased_mmd2(single))
        for value, expected in zip(values, (*parts, condition_numbers(single)), strict=True):
            assert_close(value[index], expected)
        assert_close(by_median[index], density_ratio(*own, median_bandwidths(*own, [1.0, 2.0])))
        for one, other in zip(total, gradients(sum(parts), *own), strict=True):
            assert_close(one[index], other)


def test_autocast_changes_nothing():
    q, p = (noise(20, 3, seed=seed).float().requires_grad_() for seed in (1, 2))

    def everything():
        grams = gram_matrices(q, p, [1.0, 2.0])
        loss = projector_loss(ratio_of(grams)) + mmd_root(biased_mmd2(grams))
        return loss, *gradients(loss, q, p), condition_numbers(grams)

    expected = everything()
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(everything(), expected, strict=True):
            assert torch.equal(one, other)
    half = density_ratio(q.bfloat16(), p.bfloat16(), [1.0])
    assert torch.equal(half, density_ratio(q.bfloat16().float(), p.bfloat16().float(), [1.0]))


# --- bandwidths, jitter and diagnostics --------------------------------------------------------


def test_median_bandwidths():
    assert median_bandwidths(Q, P).tolist() == [1.0]
    q, p = noise(7, 3), noise(4, 3, seed=2)
    pairs = [torch.cdist(a, b).square().flatten() for a, b in ((q, q), (q, p), (p, p))]
    expected = torch.cat(pairs).quantile(0.5).sqrt().item()
    factors = [1.0, 0.2, 5.0]
    actual = median_bandwidths(q, p, factors)
    assert actual.tolist() == pytest.approx([f * expected for f in factors], rel=1e-7)
    q, p = noise(6, 3), noise(6, 3, seed=2)  # An even number of values.
    pooled = torch.cat([torch.cdist(a, b).square().flatten() for a, b in ((q, q), (q, p), (p, p))])
    expected = pooled.quantile(0.5).sqrt().item()
    assert median_bandwidths(q, p).item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("word", "multiples"), [("median", [1]), ("median5", [1, 0.333, 0.2])])
def test_a_word_takes_the_median_bandwidths(word, multiples):
    q, p = noise(6, 3), noise(5, 3, seed=2)
    if word == "median5":
        multiples = [*multiples, 1 / 0.2, 1 / 0.333]
    sigmas = median_bandwidths(q, p, multiples)
    assert_close(gram_matrices(q, p, word).sigmas, sigmas)
    assert_close(density_ratio(q, p, word), density_ratio(q, p, sigmas))


def test_the_median_of_one_point_is_above_zero():
    ones = torch.ones(5, 2)
    sigmas = median_bandwidths(ones, ones)
    assert 0 < sigmas.item() < 1e-6
    assert density_ratio(ones, ones, sigmas).isfinite().all()


def with_smallest_eigenvalues(*smallest):
    """Gram matrices of six points, but for K_qq: its smallest eigenvalue is as told."""
    grams = gram_matrices(noise(6, 2), noise(4, 2, seed=2), [1.0])
    values, vectors = torch.linalg.eigh(grams.qq[0])
    values = torch.stack([torch.cat([values.new_tensor([s]), values[1:]]) for s in smallest])
    matrix = grams.matrix.repeat(len(smallest), 1, 1)
    matrix[:, :6, :6] = vectors @ values.diag_embed() @ vectors.mT
    return replace(grams, matrix=matrix)


class OnDevice(torch.Tensor):
    """A tensor on the CPU that says it were elsewhere."""

    device = SimpleNamespace(type="cuda")


def test_jitter_escalates_and_is_counted():
    for smallest, expected in {1.0: 0, -5e-3: 1, -0.05: 2, -0.5: 3}.items():
        grams = with_smallest_eigenvalues(smallest)
        ratio, escalations = estimate_ratio(grams, 1e-3)
        assert escalations.item() == expected
        matrix = grams.qq[0] + 1e-3 * 10**expected * torch.eye(6, dtype=torch.float64)
        assert_close(ratio, 6 / 4 * torch.linalg.solve(matrix, grams.qp[0].sum(1)), 1e-9)
    grams = with_smallest_eigenvalues(-0.5, 1.0, -5e-3)
    assert estimate_ratio(grams, 1e-3)[1].item() == 4


def test_points_that_are_all_the_same():
    same = torch.zeros(20, 1)
    ratio, escalations = estimate_ratio(gram_matrices(same, same, [1.0]))
    assert escalations.item() == 0
    assert ratio.tolist() == pytest.approx([20 / 20.001] * 20, rel=1e-6)
    with pytest.raises(ValueError, match=r"^jitter: 1e-20 is not allowed here.*even with 1e-17;"):
        density_ratio(same, same, [1.0], jitter=1e-20)


def test_a_matrix_that_stays_indefinite_is_an_error():
    with pytest.raises(ValueError, match=r"^jitter: 0.001 is not allowed here.*even with 1;"):
        ratio_of(with_smallest_eigenvalues(-2.0))


def test_elsewhere_than_on_a_cpu_nothing_is_waited_for_and_the_factors_are_the_same():
    gram = with_smallest_eigenvalues(1.0, -5e-3, -0.5).qq
    expected = module._factor(gram, 1e-3)
    assert expected[1].tolist() == [0, 1, 3]
    for one, other in zip(module._factor(gram.as_subclass(OnDevice), 1e-3), expected, strict=True):
        assert torch.equal(one.as_subclass(torch.Tensor), other)
    gram = with_smallest_eigenvalues(1.0, -2.0).qq
    lost, _ = module._factor(gram.as_subclass(OnDevice), 1e-3)
    assert lost[0].isfinite().all()
    assert lost[1].isnan().all()


def test_nan_features_give_nan_and_no_error():
    q, p = noise(5, 2), noise(6, 2, seed=2)
    q[2, 1] = torch.nan
    grams = gram_matrices(q, p, [1.0, 2.0])
    assert ratio_of(grams).isnan().all()
    assert biased_mmd2(grams).isnan()
    assert condition_numbers(grams).isnan().all()
    assert density_ratio(q, p, median_bandwidths(q, p)).isnan().all()
    members = torch.stack([q, p[:5]]), torch.stack([p, p])
    ratio = density_ratio(*members, [1.0])
    assert ratio[0].isnan().all()
    assert_close(ratio[1], density_ratio(p[:5], p, [1.0]))


def test_condition_numbers():
    q, p = noise(30, 2), noise(20, 2, seed=2)
    numbers = condition_numbers(gram_matrices(q, p, [0.5, 2.0]), jitter=1e-2)
    for number, sigma in zip(numbers.tolist(), (0.5, 2.0), strict=True):
        matrix = kernel(q, q, sigma) + 1e-2 * torch.eye(30, dtype=torch.float64)
        assert number == pytest.approx(torch.linalg.cond(matrix).item(), rel=1e-8)


def test_ratio_error_is_on_flattened_samples():
    fake, real = noise(5, 1, 2, 2), noise(6, 1, 2, 2, seed=2)
    ratio = noise(5, seed=3)
    raw = ratio_by_inverse(fake.flatten(1), real.flatten(1), [1.5], 1e-2)
    assert (raw < 0).any()
    actual = ratio_error(fake, real, ratio, [1.5], 1e-2)
    assert_close(actual, (raw - ratio).square().mean())
    clipped = ratio_error(fake, real, ratio, [1.5], 1e-2, clip=True)
    assert_close(clipped, (raw.clamp_min(0) - ratio).square().mean())


def test_the_weight_of_the_regulariser():
    ratio = torch.tensor([-1.0, 2.0, 2e9], dtype=torch.float64)[:2]
    assert projector_loss(ratio, "mean", 0.5).item() == pytest.approx(-2.5 - 0.25)
    assert projector_loss(ratio, "sum", 0.5).item() == pytest.approx(-2.5 - 0.5)
    assert projector_loss(ratio, "clip", 0.5).item() == pytest.approx(-1)


def test_the_root_is_steep_at_zero_no_more_than_delta_allows():
    value = torch.zeros((), requires_grad=True)
    (slope,) = gradients(mmd_root(value), value)
    assert slope.item() <= 500
    assert mmd_root(torch.tensor(-1e-4)).item() == pytest.approx(1e-3)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denominator": torch.ones(1, 2)}, r"^denominator: shape \(1, 2\) is not allowed"),
        ({"numerator": torch.ones(1, 2)}, r"^numerator: shape \(1, 2\) .* 2 samples or more"),
        ({"numerator": torch.ones(4, 3)}, r"^numerator: shape \(4, 3\) .* of shape \(3, 2\)"),
        ({"numerator": torch.ones(2, 4, 2)}, r"^numerator: shape \(2, 4, 2\) is not allowed"),
        ({"denominator": torch.ones(())}, r"^denominator: shape \(\) is not allowed"),
        ({"denominator": torch.rand(3, 1, 2, 2)}, r"^denominator: shape \(3, 1, 2, 2\) .* flatten"),
        ({"numerator": torch.rand(3, 1, 2, 2)}, r"^numerator: shape \(3, 1, 2, 2\) .* flatten"),
        ({"denominator": torch.ones(3, 0)}, r"^denominator: shape \(3, 0\) is not allowed"),
        ({"denominator": [1.0, 2.0]}, "^denominator: a list is not allowed"),
        ({"numerator": torch.ones(4, 2) * 1j}, "^numerator: torch.complex64 is not allowed"),
        ({"sigmas": "mean"}, r"^sigmas: 'mean' is not allowed; it must be one of median, median5"),
        ({"sigmas": []}, r"^sigmas: \[\] is not allowed"),
        ({"sigmas": [1.0, 0.0]}, r"^sigmas: 0.0 is not allowed; it must be above 0"),
        ({"sigmas": [-1.0]}, r"^sigmas: -1.0 is not allowed"),
        ({"sigmas": [math.nan]}, r"^sigmas: nan is not allowed"),
        ({"sigmas": 0}, r"^sigmas: 0 is not allowed; it must be above 0"),
        ({"sigmas": torch.tensor([1.0, 0.0])}, r"^sigmas: \[1.0, 0.0\] is not allowed"),
        ({"jitter": 0.0}, r"^jitter: 0.0 is not allowed; it must be above 0"),
        ({"jitter": -1e-3}, r"^jitter: -0.001 is not allowed"),
    ],
)
def test_bad_input(change, message):
    good = {"denominator": torch.rand(3, 2), "numerator": torch.rand(4, 2), "sigmas": [1.0]}
    density_ratio(**good)
    with pytest.raises(ValueError, match=message):
        density_ratio(**(good | change))


@pytest.mark.parametrize("ratio", [torch.ones(2), torch.ones(3, 1), torch.ones(())])
def test_a_ratio_of_another_shape_is_refused(ratio):
    points = torch.rand(3), torch.rand(4)  # Of one dimension each.
    assert ratio_error(*points, torch.ones(3), 1.0).isfinite()
    with pytest.raises(ValueError, match=r"^ratio: shape .* it must be \(3,\)"):
        ratio_error(*points, ratio, 1.0)


def test_bad_options():
    with pytest.raises(ValueError, match=r"^regulariser: 'clamp' is not allowed.*mean, sum, none"):
        projector_loss(Q, "clamp")
    with pytest.raises(ValueError, match=r"^weight: -1.0 is not allowed"):
        projector_loss(Q, weight=-1.0)
    with pytest.raises(ValueError, match=r"^factors: 0.0 is not allowed"):
        median_bandwidths(Q, P, [0.0])
