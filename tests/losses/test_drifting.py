"""Fields and their loss: golden values, the same by loops, and what holds for any samples."""

import math
from functools import partial

import pytest
import torch
from golden_samples import X, Y, rows
from kernel_oracles import Polynomial, noise
from torch.func import jacrev

from lightning_igm.losses._clouds import Clouds, _plan
from lightning_igm.losses.drifting import (
    drifting_loss,
    drifting_loss_and_drifts,
    mean_shift_field,
    mmd_field,
    sharp_field,
    sinkhorn_field,
    two_sided_field,
)
from lightning_igm.losses.fields import (
    MeanShiftField,
    MMDField,
    SharpField,
    SinkhornField,
    TwoSidedField,
)
from lightning_igm.losses.kernels import Distance, Gaussian, InverseMultiquadric, Linear, Sum
from lightning_igm.losses.mmd import mmd2

DIGITS = 5.1e-9
FIELDS = {
    "two-sided": partial(two_sided_field, temperature=0.5),
    "two-sided, all pairs": partial(two_sided_field, temperature=0.5, mask=False),
    "sinkhorn": partial(sinkhorn_field, epsilon=0.5),
    "mean shift": partial(mean_shift_field, bandwidth=0.8),
    "mean shift, masked": partial(mean_shift_field, bandwidth=0.8, mask=True),
    "mean shift, laplace": partial(mean_shift_field, bandwidth=0.5, kernel="laplace"),
    "sharp": partial(sharp_field, temperature=0.5),
    "mmd": partial(mmd_field, kernel=Gaussian(0.8)),
    "mmd of a sum": partial(mmd_field, kernel=Sum([InverseMultiquadric(1.0), Linear()])),
}
MASKED = ("two-sided", "mean shift, masked")
# Field: rows, and the field there.
GOLDEN = {
    "two-sided": (
        range(6),
        ".20107755 .23855340 .38137234; .01833112 .26105897 .23323991; .00229572 .17879285"
        " .16311052; -.00819287 .05359347 .17485799; .06931311 .10295360 .20043547;"
        ".06364977 -.12276554 .53650210",
    ),
    "two-sided, all pairs": (
        range(6),
        ".06676672 .10515036 .24878774; .11941165 .09224342 .16049060; .02032929 .10186950"
        " .16840658; -.01006607 .05991013 .13250339; .01341083 .07218362 .14874403;"
        ".18887203 .11149011 .33386536",
    ),
    "sinkhorn": (
        range(6),
        ".33754325 .29527911 1.01836033; .29290864 -.19230870 1.34445757; .01319723 .38648470"
        " .69827697; -.45135602 .02654614 1.73297806; .32886698 .49757574 1.13965677;"
        ".61058798 .26548035 1.15173036",
    ),
    "mean shift": (
        range(6),
        ".25878428 .59582863 .77771548; .13688515 .52764899 .34729316; -.16274049 .62797835"
        " .42564592; -.24125883 .68752891 .74844734; .15903201 .68109708 .81054735;"
        ".40226025 .25104287 1.03297654",
    ),
    "mean shift, masked": ([0], ".43420990 .76141356 .89942614"),
    "mean shift, laplace": ([0], ".09745630 .43386447 .76224661"),
    "sharp": (
        [0, 3, 5],
        ".30942130 .71859806 1.04650561; -.22997236 .35192676 .72554632;"
        ".39081015 .24774736 1.07512453",
    ),
    "mmd": (
        [0, 3, 5],
        ".19639905 .28739251 .30983008; -.00297133 -.13538790 -.04702598;"
        ".05882431 -.01580170 .31474047",
    ),
}
GRADIENT = rows(
    "-.18190493 -.20961001 -.28381493; -.03292656 -1.14478860 -.79010337; -.13050553 -.23519596"
    " -.03344797; .00738075 -.01441493 -.03095007; -.03130184 -.03903628 -.05440449;"
    "-.09281472 .12343337 -.39835375"
)
each_field = pytest.mark.parametrize("name", FIELDS)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_fields(name):
    of, expected = GOLDEN[name]
    assert (FIELDS[name](X, Y)[list(of)] - rows(expected)).abs().max() < DIGITS


@pytest.mark.parametrize("name", GOLDEN)
def test_float32_keeps_the_digits(name):
    expected = FIELDS[name](X, Y)
    actual = FIELDS[name](X.float(), Y.float())
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


# --- by loops -----------------------------------------------------------------------------------


def softmax(logits):
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def two_sided_by_loops(x, y, temperature, mask):
    columns = [*x, *y]
    pairs = [(i, j) for i in range(len(x)) for j in range(len(columns)) if not mask or i != j]
    weight = {(i, j): math.exp(-(x[i] - columns[j]).norm() / temperature) for i, j in pairs}
    row = [sum(w for (k, _), w in weight.items() if k == i) for i in range(len(x))]
    column = [sum(w for (_, k), w in weight.items() if k == j) for j in range(len(columns))]
    field = torch.zeros_like(x)
    for i in range(len(x)):
        a = {j: w / math.sqrt(row[i] * column[j]) for (k, j), w in weight.items() if k == i}
        fakes = {j: value for j, value in a.items() if j < len(x)}
        reals = {j: value for j, value in a.items() if j >= len(x)}
        field[i] = sum(fakes.values()) * sum(w * columns[j] for j, w in reals.items())
        field[i] -= sum(reals.values()) * sum(w * columns[j] for j, w in fakes.items())
    return field


def barycentres(x, y, logit_of, mask=False):
    """Of each x_i, the mean of all y_j that a softmax of the logits weights."""
    made = []
    for i, point in enumerate(x):
        kept = [j for j in range(len(y)) if not mask or i != j]
        weights = softmax([logit_of((point - y[j]).norm().item()) for j in kept])
        made.append(sum(w * y[j] for w, j in zip(weights, kept, strict=True)))
    return torch.stack(made)


@pytest.mark.parametrize("mask", [True, False])
def test_two_sided_field_by_loops(mask):
    x, y = noise(5, 2), noise(4, 2, seed=2) + 0.5
    expected = two_sided_by_loops(x, y, 0.7, mask)
    actual = two_sided_field(x, y, 0.7, mask=mask)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("kernel", ["gaussian", "laplace"])
def test_mean_shift_field_by_loops(kernel, mask):
    x, y = noise(5, 2), noise(4, 2, seed=2)

    def logit(r):
        return -r / 0.7 if kernel == "laplace" else -(r**2) / (2 * 0.7**2)

    expected = barycentres(x, y, logit) - barycentres(x, x, logit, mask)
    actual = mean_shift_field(x, y, 0.7, mask=mask, kernel=kernel)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def plan_by_loops(x, y, epsilon, iterations):
    plan = torch.stack(
        [torch.stack([(-(a - b).square().sum() / epsilon).exp() for b in y]) for a in x]
    )
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return plan / plan.sum(1, keepdim=True)


def test_sinkhorn_field_by_loops():
    x, y = noise(5, 2), noise(4, 2, seed=2)
    expected = plan_by_loops(x, y, 0.7, 9) @ y - plan_by_loops(x, x, 0.7, 9) @ x
    actual = sinkhorn_field(x, y, 0.7, iterations=9)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_marginals_of_sinkhorns_plan():
    _, logits = (clouds := Clouds(X, Y)).split(clouds.distances.square() / -0.5)
    plan = _plan(logits, 400)
    assert (plan.sum(1) - 1).abs().max() < 1e-12
    assert (plan.sum(0) - len(X) / len(Y)).abs().max() < 1e-6


def sinkhorn_divergence(x, y, epsilon):
    """For the squared distance, by its potentials."""

    def transport(a, b):
        costs = (a[:, None] - b[None]).square().sum(-1)
        f, g = a.new_zeros(len(a)), b.new_zeros(len(b))
        for _ in range(1000):
            f = -epsilon * ((g - costs) / epsilon - math.log(len(b))).logsumexp(1)
            g = -epsilon * ((f[:, None] - costs) / epsilon - math.log(len(a))).logsumexp(0)
        return f.mean() + g.mean()

    return transport(x, y) - (transport(x, x) + transport(y, y)) / 2


def test_sinkhorn_field_descends_the_sinkhorn_divergence():
    x = X.clone().requires_grad_()
    divergence = sinkhorn_divergence(x, Y, 0.5)
    assert divergence.item() == pytest.approx(2.193213, abs=1e-6)
    (slope,) = torch.autograd.grad(divergence, x)
    field = sinkhorn_field(X, Y, 0.5, iterations=400)
    torch.testing.assert_close(field, -3 * slope, rtol=0, atol=1e-8)
    assert (
        field[[0, 3]] - rows(".33765030 .29520758 1.01858784; -.45035747 .02637457 1.73281601")
    ).abs().max() < DIGITS


def test_sharp_field_is_a_gradient():
    def potential(point, points):
        r = ((points - point).square().sum(1) + 1e-300).sqrt()
        return (0.5 * (r + 0.5) * (-r / 0.5).exp()).sum().log()

    others = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slope = jacrev(lambda p: potential(p, Y) - potential(p, others))(X[0])
    # A fake that stands far from all others, and for itself alone, adds nothing.
    towards = sharp_field(X[:1], Y, 0.5) - sharp_field(X[:1], others, 0.5)
    torch.testing.assert_close(towards[0], slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", [Gaussian(0.8), InverseMultiquadric(0.5), Linear()])
def test_mmd_field_descends_the_mmd(kernel):
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(mmd2(kernel, x, Y, estimator="biased"), x)
    torch.testing.assert_close(mmd_field(X, Y, kernel), -3 * slope, rtol=1e-10, atol=1e-12)


# --- what holds for any samples -------------------------------------------------------------------


@each_field
def test_a_field_does_not_depend_on_the_origin_or_the_order(name):
    field, shift = FIELDS[name], torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    expected = field(X, Y)
    torch.testing.assert_close(field(X + shift, Y + shift), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(field(X.flip(0), Y.flip(0)), expected.flip(0), rtol=0, atol=1e-12)


@each_field
def test_a_field_is_zero_between_equal_samples_unless_it_is_masked(name):
    largest = FIELDS[name](X, X).abs().max()
    assert largest > 1e-2 if name in MASKED else largest < 1e-12


@pytest.mark.parametrize(
    "field",
    [
        TwoSidedField(mask=False),
        SinkhornField(),
        MeanShiftField("laplace"),
        MeanShiftField(),
        SharpField(),
        MMDField(),
    ],
    ids=str,
)
def test_a_field_changes_its_sign_with_the_roles(field):
    """At points of its own: each set attracts where it is the real one and repels as the fakes."""
    points, other = Y, X.flip(1)
    fields = []
    for negatives, positives in ((points, other), (other, points)):
        # Its own columns are those of X: what moves X are other points, in either role.
        clouds = Clouds(X, Y)
        clouds.points = torch.cat([negatives, positives])
        clouds.distances, clouds.fakes = torch.cdist(X, clouds.points), len(negatives)
        clouds.centred = lambda weights: weights
        weights = field.weights(clouds, 0.7)
        fields.append(weights @ clouds.points - weights.sum(1, keepdim=True) * X)
    forth, back = fields
    assert forth.abs().max() > 1e-2
    torch.testing.assert_close(forth, -back, rtol=0, atol=1e-12)


def test_a_masked_field_falls_with_the_number_of_fakes():
    sizes = [8, 512]
    norms = [two_sided_field(x := noise(n, 2), x, 0.2).square().mean().sqrt() for n in sizes]
    assert norms[0] > 3 * norms[1] > 0


def test_samples_far_apart_leave_a_finite_field():
    for field in FIELDS.values():
        assert field(X.float(), Y.float() + 1e4).isfinite().all()
        assert field(1e4 * X.float(), Y.float()).isfinite().all()


# --- the loss -------------------------------------------------------------------------------------


def test_golden_loss():
    x = X.clone().requires_grad_()
    loss, drifts = drifting_loss_and_drifts(x, Y, temperatures=(0.2, 0.05, 0.02))
    norms = rows(".22040589 .08705311 .03135544")[0]
    assert (drifts.sqrt() - norms).abs().max() < DIGITS
    assert loss.item() == pytest.approx(7.07498286, abs=DIGITS)
    assert (torch.autograd.grad(loss, x)[0] - GRADIENT).abs().max() < 1e-8
    assert drifting_loss(x, Y).item() == pytest.approx(loss.item(), rel=1e-12)


def test_the_gradient_follows_the_field_alone():
    """The loss at one temperature is 1, and the gradient -2 V / (N D S lambda)."""
    x = X.clone().requires_grad_()
    loss = drifting_loss(x, Y, temperatures=[0.2])
    assert loss.item() == pytest.approx(1.0, rel=1e-12)
    everything = torch.cat([X, Y])
    scale = torch.stack([(a - b).norm() for a in X for b in everything]).mean() / math.sqrt(3)
    field = two_sided_field(X / scale, Y / scale, 0.2 * math.sqrt(3))
    expected = -2 * field / field.square().mean().sqrt() / (18 * scale)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "field"),
    [
        (two_sided_field, TwoSidedField()),
        (partial(two_sided_field, mask=False), TwoSidedField(mask=False)),
        (mean_shift_field, MeanShiftField()),
        (partial(mean_shift_field, kernel="laplace", mask=True), MeanShiftField("laplace", True)),
        (sharp_field, SharpField()),
        (lambda x, y, t: sinkhorn_field(x, y, t**2, iterations=7), SinkhornField(7)),
        (lambda x, y, t: mmd_field(x, y, Gaussian(t)), MMDField()),
    ],
)
def test_a_loss_of_any_field(function, field):
    gradients = []
    for each in (function, field, lambda x, y, t: field(x, y, t)):
        x = X.clone().requires_grad_()
        loss = drifting_loss(x, Y, temperatures=(0.3, 0.7), field=each)
        gradients.append(torch.autograd.grad(loss, x)[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)


def test_the_loss_does_not_depend_on_the_unit():
    values = [drifting_loss(scale * X, scale * Y).item() for scale in (1.0, 100.0)]
    assert values[1] == pytest.approx(values[0], rel=1e-10)


def test_a_loss_without_a_field_is_zero():
    x = torch.zeros(3, 2, requires_grad=True)
    loss = drifting_loss(x, torch.zeros(4, 2))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, x)[0].any()


def test_float32_loss():
    x = X.float().requires_grad_()
    loss = drifting_loss(x, Y.float())
    assert loss.item() == pytest.approx(7.07498286, rel=1e-3)
    assert (torch.autograd.grad(loss, x)[0] - GRADIENT).abs().max() < 1e-3 * GRADIENT.abs().max()


# --- bad inputs ---------------------------------------------------------------------------------

ONE = torch.ones(1, 2)
TWO = torch.ones(2, 2)
MISTAKES = {
    "temperature": (lambda: two_sided_field(TWO, TWO, 0.0), r"^temperature: 0.0 is not allowed"),
    "sharp": (lambda: sharp_field(TWO, TWO, -1.0), r"^temperature: -1.0 is not allowed"),
    "epsilon": (lambda: sinkhorn_field(TWO, TWO, 0.0), r"^epsilon: 0.0 is not allowed"),
    "nan": (lambda: sinkhorn_field(TWO, TWO, math.nan), r"^epsilon: nan is not allowed"),
    "iterations": (
        lambda: sinkhorn_field(TWO, TWO, 1.0, iterations=0),
        r"^iterations: 0 is not allowed; it must be 1 or more",
    ),
    "bandwidth": (lambda: mean_shift_field(TWO, TWO, 0.0), r"^bandwidth: 0.0 is not allowed"),
    "radial kernel": (
        lambda: mean_shift_field(TWO, TWO, 1.0, kernel="cubic"),
        r"^kernel: 'cubic' is not allowed; it must be one of gaussian, laplace",
    ),
    "kernel of a class": (lambda: MeanShiftField("cubic"), r"^kernel: 'cubic' is not allowed"),
    "one fake": (lambda: two_sided_field(ONE, TWO, 1.0), r"^fake: a batch of 1 is not allowed"),
    "one fake, shift": (
        lambda: mean_shift_field(ONE, TWO, 1.0, mask=True),
        r"^fake: a batch of 1 is not allowed with mask=True",
    ),
    "one fake in the loss": (lambda: drifting_loss(ONE, TWO), r"^fake: a batch of 1"),
    "no fake": (lambda: sharp_field(TWO[:0], TWO, 1.0), r"^fake: shape \(0, 2\) is not allowed"),
    "no real": (lambda: sharp_field(TWO, TWO[:0], 1.0), r"^real: shape \(0, 2\) is not allowed"),
    "lengths": (lambda: sharp_field(TWO, TWO[:, :1], 1.0), r"^real: features of length 1 are not"),
    "images": (lambda: sharp_field(TWO, TWO[None], 1.0), r"^real: shape \(1, 2, 2\)"),
    "distance": (lambda: mmd_field(TWO, TWO, Distance()), r"^kernel: Distance\(\) is not allowed"),
    "no profile": (lambda: mmd_field(TWO, TWO, Polynomial()), r"^kernel: Polynomial\(\) is not"),
    "kernel of a field": (lambda: MMDField(Distance()), r"^kernel: Distance\(\) is not allowed"),
    "no temperatures": (
        lambda: drifting_loss(TWO, TWO, temperatures=()),
        r"^temperatures: \[\] is not allowed; it must have one or more",
    ),
    "a temperature": (
        lambda: drifting_loss(TWO, TWO, temperatures=(0.1, -0.2)),
        r"^temperatures: -0.2 is not allowed; it must be above 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_inputs_are_named(name):
    mistake, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as error:
        mistake()
    assert "\n" not in str(error.value)
