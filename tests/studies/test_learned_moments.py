"""The study of learned against random moments: its arithmetic, and a tiny run of it."""

import numpy as np
import pytest

from lightning_igm.runs.compare import Curve
from lightning_igm.studies._runs import read_timed_curve
from lightning_igm.studies.learned_moments import main, summary


def curve(*fid: float, seconds: float = 100.0) -> Curve:
    return Curve(np.arange(1.0, len(fid) + 1) * 10, np.array(fid), seconds)


def test_plateau_is_the_mean_of_the_last_fifth():
    assert curve(9, 8, 7, 6, 5, 4, 3, 2, 4, 2).plateau() == 3


def test_fid_at_a_time_is_interpolated():
    assert curve(8, 4).at(75) == 6


def test_summary_compares_at_equal_steps_and_at_equal_time():
    table = summary(
        {
            "learned moments": [curve(4, 2), curve(4, 2)],
            "random moments": [curve(8, 4, seconds=50), curve(8, 4, seconds=50)],
            "GAN": [curve(1, 1), curve(3, 3)],
        }
    )
    assert "| learned moments | 2 | 2.00 ± 0.00 | 4.00 ± 0.00 | 20 | 100 |" in table
    assert "| GAN | 2 | 2.00 ± 1.41 |" in table
    assert "0.50 at the plateau (equal steps), 1.00 at equal processor time" in table


def test_unfinished_run_has_no_curve(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_timed_curve(tmp_path)


@pytest.mark.slow
def test_study_runs_and_takes_what_is_there(tmp_path):
    arguments = ["--out", str(tmp_path), "--seeds", "0", "1", "--trainer.max_steps=2"]
    arguments += ["--metrics.every_n_steps=1", "--metrics.num_samples=600"]
    table = main(arguments)
    assert (tmp_path / "summary.md").read_text() == table
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert main(arguments) == table
