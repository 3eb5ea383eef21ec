"""Pictures of points, pixel by pixel."""

import pytest
import torch

from lightning_igm.data import GaussianDataModule, RingDataModule
from lightning_igm.evaluation.pictures import BLUE, ORANGE, of_points, plane, scatter, surroundings

UNIT = (0.0, 0.0, 1.0)


def test_a_point_is_where_it_should_be():
    picture = scatter([(torch.tensor([[0.7, 0.1]]), BLUE)], UNIT, pixels=20, radius=0, opacity=1)
    rows, columns = torch.nonzero(picture[0] == BLUE[0]).T
    assert (rows.tolist(), columns.tolist()) == ([8], [17]), "the second coordinate goes upwards"
    assert picture[:, 8, 17].tolist() == list(BLUE)
    assert picture[:, 10, 10].tolist() == [255] * 3


def test_a_point_is_a_disc():
    picture = scatter([(torch.zeros(1, 2), BLUE)], UNIT, pixels=21, radius=2, opacity=1)
    rows, columns = torch.nonzero(picture[0] == BLUE[0]).T
    assert len(rows) == 13
    assert ((rows - 10) ** 2 + (columns - 10) ** 2 <= 4).all()


def test_later_points_are_over_earlier_ones_and_crowds_are_darker():
    points = torch.zeros(1, 2)
    one, two = (
        scatter([(points.expand(n, 2), BLUE)], UNIT, pixels=5, radius=0, opacity=0.5)[0, 2, 2]
        for n in (1, 2)
    )
    assert (one, two) == (round(255 - 224 / 2), round(255 - 224 * 3 / 4))
    both = scatter([(points, BLUE), (points, ORANGE)], UNIT, pixels=5, radius=0, opacity=1)
    assert both[:, 2, 2].tolist() == list(ORANGE)


def test_what_lies_outside_or_is_not_finite_is_not_drawn():
    far = [[2.0, 0.0], [0.0, -1e30], [torch.nan, 0.0], [torch.inf, 0.0]]
    empty = scatter([], UNIT, pixels=9)
    assert torch.equal(scatter([(torch.tensor(far), BLUE)], UNIT, pixels=9), empty)
    assert (empty[:, 1:-1, 1:-1] == 255).all()
    assert (empty[:, 0] < 255).all(), "a frame"


def test_the_square_holds_all_points():
    assert surroundings(torch.tensor([[0.0, 1.0], [2.0, 5.0]])) == pytest.approx((1, 3, 2.2))
    assert surroundings(torch.ones(3, 2)) == (1.0, 1.0, 1.0)


def test_the_tilted_ring_is_seen_from_above():
    ring = RingDataModule(dim=3, test_count=500)
    ring.setup()
    seen = plane(ring, ring.test_data)
    assert seen.shape == (500, 2)
    torch.testing.assert_close(seen.norm(dim=1).mean(), torch.tensor(2.0), rtol=0.03, atol=0)


def test_other_points_are_seen_by_their_first_two_coordinates():
    gaussian = GaussianDataModule(mean=[0.0], covariance=[[1.0]])
    assert plane(gaussian, torch.ones(4, 1)).tolist() == [[1.0, 0.0]] * 4
    assert plane(gaussian, torch.arange(3.0)[None]).tolist() == [[0.0, 1.0]]


def test_points_are_told_from_images():
    assert of_points(RingDataModule())
    assert not of_points(None)
    assert not of_points(object())
