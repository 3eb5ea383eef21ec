"""The comparison of all methods on the digits: its arithmetic, and a tiny run of it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lightning_igm.runs.compare import Curve
from lightning_igm.studies import digits
from lightning_igm.studies._runs import train_all
from lightning_igm.studies.digits import METHODS, Run, main, summary


def run(*fid: float, seconds: float = 100.0, condition: float = 5.0) -> Run:
    steps = np.arange(1.0, len(fid) + 1) * 10
    curve = Curve(steps, np.array(fid), seconds)
    return Run(
        curve,
        curve._replace(score=curve.score / 1000),
        {"fid": fid[-1] / 2, "ms_ssim_ratio": 1.25},
        condition,
    )


def test_methods_are_compared_at_equal_steps_and_equal_time():
    table = summary(
        {
            "short": [run(8, 4, seconds=50), run(6, 2, seconds=50, condition=7)],
            "long": [run(9, 1, 1, 1), run(9, 1, 1, 1)],
        }
    )
    assert "FID after 20 steps | 1000 KID, 20 steps | FID after 50 s |" in table
    short, long = table.splitlines()[3], table.splitlines()[2]
    at_20 = "3 ± 1.4 (2 to 4)"
    assert short == (
        f"| short | {at_20} | {at_20} | {at_20} | 20 | 1.5 ± 0.71 (1 to 2) | "
        "1.25 ± 0 (1.25 to 1.25) | 2500 | 7.0 | 0 of 2 |"
    )
    at_20 = "1 ± 0 (1 to 1)"
    assert long.startswith(f"| long | {at_20} | {at_20} | {at_20} | 40 | 0.5 ± 0 (0.5 to 0.5)")


def test_diverged_runs_are_counted_and_come_last():
    good = [run(9, 9), run(9, 9)]
    table = summary({"bad": [None, None], "half": [None, run(3, 2)], "good": good})
    lines = table.splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| half", "| good", "| bad"]
    assert lines[2] == f"| bad |{' - |' * 8} 2 of 2 |"
    assert lines[0].startswith("| half | 2 |")
    assert lines[0].endswith("| 1 of 2 |")


@pytest.mark.slow
def test_study_trains_scores_and_counts(tmp_path):
    arguments = ["--out", str(tmp_path), "--seeds", "0", "--methods", "GAN", "MMD-net"]
    arguments += ["--trainer.max_steps=4", "--metrics.every_n_steps=2", "--metrics.num_samples=600"]
    table = main(arguments)
    assert "| GAN |" in table
    assert "| MMD-net |" in table
    with (tmp_path / "scores.csv").open() as file:
        assert [row["generator_step"] for row in csv.DictReader(file)] == ["2.0", "4.0"] * 2
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "fids.png").stat().st_size > 1000
    assert main(arguments) == table


def test_diverged_run_is_no_failure_of_the_study(tmp_path):
    folder = tmp_path / "GAN-0"
    folder.mkdir()
    (folder / "seconds.txt").write_text("3.0\n")
    (folder / "log.txt").write_text("error: critic_loss is not finite at generator step 3; ...\n")
    assert train_all({folder: ["--config", "gan/digits"]}) == [folder]


def test_every_preset_is_there():
    root = Path(__file__).parents[2] / "configs"
    assert all((root / f"{preset}.yaml").is_file() for preset in METHODS.values())
    assert {*METHODS.values()} == {
        f"{path.parent.name}/{path.stem}" for path in root.glob("*/*digits*.yaml")
    }


def test_a_new_preset_is_found_and_named_by_its_class(monkeypatch):
    new = ("new/plain_digits", "new/digits", "new/mnist")
    monkeypatch.setattr(digits, "presets", lambda: [*digits._NAMES, *new])
    monkeypatch.setattr(digits, "method_of", lambda preset: "NewGAN")
    named = {name: preset for preset, name in digits._NAMES.items()}
    assert digits._methods() == named | {"NewGAN": new[1], new[0]: new[0]}
