"""The study of vanishing gradients: exact numbers, and the same by sampling."""

import csv
import math

import pytest
import torch

from lightning_igm.studies import rank_collapse
from lightning_igm.studies.rank_collapse import EXAMPLES, Critic

PARAMETERS = (1.0, 0.1, 0.01)
MEANS = {"alpha": (0.716639, 0.0255565, 0.00208917), "beta": (0.680000, 0.0255043, 0.00208912)}
LIPSCHITZ = {"alpha": (3.88, 1.45, 1.2961), "beta": (1.64, 0.65, 0.6401)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_means_and_maxima(name):
    critics = [EXAMPLES[name](parameter) for parameter in PARAMETERS]
    means = [critic.mean_squared_gradient().item() for critic in critics]
    assert means == pytest.approx(MEANS[name], rel=3e-6)
    maxima = [critic.squared_lipschitz_constant().item() for critic in critics]
    assert maxima == pytest.approx(LIPSCHITZ[name], rel=1e-12)


def test_condition_numbers():
    numbers = [EXAMPLES["alpha"](a).condition_number().item() for a in PARAMETERS]
    assert [round(numbers[0], 3), round(numbers[1], 2), round(numbers[2], 1)] == [
        6.854,
        42.08,
        402.0,
    ]
    beta = EXAMPLES["beta"](1e-4).condition_number().item()
    assert beta * 1e-4 == pytest.approx(2 / math.sqrt(3), rel=1e-6)


def by_hand(name, parameter, g=0.2):
    """Squared norms where both units are on, both off, and one of them is on, with their odds."""
    if name == "alpha":
        rows = torch.tensor([[1, 1], [1, 1 + parameter]])
        squares = parameter**2, (g * parameter) ** 2
        mixed = (1 + parameter - g) ** 2, (1 - g - g * parameter) ** 2
        mixed = tuple((1 - g) ** 2 + x for x in mixed)
    else:
        rows = torch.tensor([[1, 0], [1, parameter]])
        squares = parameter**2, (g * parameter) ** 2
        mixed = (1 - g) ** 2 + parameter**2, (1 - g) ** 2 + (g * parameter) ** 2
    cosine = rows[0] @ rows[1] / (rows[0].norm() * rows[1].norm())
    angle = math.acos(cosine)
    return (sum(squares) * (math.pi - angle) + sum(mixed) * angle) / (2 * math.pi), max(mixed)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("parameter", [0.7, 0.3])
def test_sectors_equal_the_algebra_by_hand(name, parameter):
    mean, maximum = by_hand(name, parameter)
    critic = EXAMPLES[name](parameter)
    assert critic.mean_squared_gradient().item() == pytest.approx(mean, rel=1e-5)
    assert critic.squared_lipschitz_constant().item() == pytest.approx(maximum, rel=1e-9)


MANY_UNITS = Critic(
    torch.tensor([[0.05, 1], [1, 0], [-1, 0.2], [2, 1], [-0.3, -2], [1, -1]]).double(),
    torch.tensor([1, -2, 1, 0.5, -1, 3]).double(),
)


@pytest.mark.parametrize(
    "critic",
    [EXAMPLES[name](parameter) for name in EXAMPLES for parameter in (1, 0.1)] + [MANY_UNITS],
)
def test_sampling_agrees(critic):
    points = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).double()
    points.requires_grad_()
    hidden = torch.nn.functional.leaky_relu(points @ critic.weight.T, 0.2)
    (gradients,) = torch.autograd.grad((hidden @ critic.output).sum(), points)
    torch.testing.assert_close(critic.gradients(points.detach()), gradients)
    squares = gradients.square().sum(1)
    error = squares.std().item() / math.sqrt(len(squares))
    assert squares.mean().item() == pytest.approx(
        critic.mean_squared_gradient().item(), abs=4 * error
    )
    largest = critic.squared_lipschitz_constant().item()
    assert squares.max().item() == pytest.approx(largest, rel=1e-9)


def test_sectors_cover_the_plane():
    draw = torch.Generator().manual_seed(0)
    weight, output = torch.randn(5, 2, generator=draw), torch.randn(5, generator=draw)
    probabilities, squares = Critic(weight, output).sectors()
    assert probabilities.shape == squares.shape == (10,)
    assert float(probabilities.sum()) == pytest.approx(1, rel=1e-6)
    assert (probabilities >= 0).all()


def test_the_command_writes_the_figure_and_the_table(tmp_path):
    rank_collapse.main(["--out", str(tmp_path)])
    assert (tmp_path / "rank_collapse.png").stat().st_size > 30_000
    with (tmp_path / "rank_collapse.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert last["alpha"] == last["beta"] == "1"
    assert float(last["mean squared gradient of alpha"]) == pytest.approx(0.716639, abs=5e-7)
    assert float(last["squared Lipschitz constant of beta"]) == pytest.approx(1.64)
