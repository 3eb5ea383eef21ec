import random

import numpy as np
import pytest
import torch

from lightning_igm.metrics.rng import isolated_rng


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def seed(number):
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


@pytest.mark.parametrize("inner_seed", [None, 3])
def test_draws_inside_leave_the_outside_alone(inner_seed):
    seed(0)
    expected = draw()
    seed(0)
    with isolated_rng(inner_seed):
        draw()
    assert draw() == expected


def test_the_states_are_restored_after_an_exception():
    seed(0)
    expected = draw()
    seed(0)
    with pytest.raises(RuntimeError, match="inside"), isolated_rng(1):
        raise RuntimeError(f"inside, after drawing {draw()}")
    assert draw() == expected


def test_a_seed_repeats_and_none_continues():
    with isolated_rng(5):
        first = draw()
    with isolated_rng(5):
        assert draw() == first
    seed(5)
    with isolated_rng():
        assert draw() == first
