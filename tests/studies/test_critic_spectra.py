import csv

import pytest
import torch

from lightning_igm.studies import critic_spectra
from lightning_igm.studies.critic_spectra import condition_numbers, perceptron, train


def test_condition_numbers_are_those_of_the_raw_weights():
    critic = perceptron(2, 4, 3, 1)
    expected = [torch.linalg.cond(critic[i].weight.double()) for i in (0, 2)]
    torch.testing.assert_close(condition_numbers(critic), torch.stack(expected))


@pytest.mark.parametrize("spectral", [False, True])
def test_training_is_the_same_again_and_changes_the_critic(spectral):
    first, again = (list(train(spectral, steps=4, every=2)) for _ in range(2))
    assert [row[0] for row in first] == [2, 4]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))
        assert one[1].shape == (3,)
        assert all(value.isfinite().all() for value in one[1:])
    assert not torch.equal(first[0][1], first[1][1])


def test_the_command_writes_the_figure_and_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(critic_spectra, "train", lambda spectral: train(spectral, steps=4, every=2))
    critic_spectra.main(["--out", str(tmp_path)])
    assert (tmp_path / "critic_spectra.png").stat().st_size > 20_000
    with (tmp_path / "critic_spectra.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert len(rows[0]) == 1 + 2 * (3 + 2)
