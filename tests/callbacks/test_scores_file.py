"""The file of scores that validate and test write."""

import json
from pathlib import Path

import pytest

from lightning_igm.cli import main

GAN = ["--config", "configs/gan/digits.yaml", "--trainer.max_steps=1"]
GAN += ["--trainer.enable_progress_bar=false", "--metrics.num_samples=600"]


def run(folder: Path, command: str, *words: str) -> None:
    main([command, *GAN, f"--run.dir={folder}", *words])


def test_validate_and_test_add_an_entry_each(tmp_path: Path) -> None:
    run(tmp_path, "fit", "--metrics.every_n_steps=1")
    path = tmp_path / "scores.json"
    assert not path.exists()
    run(tmp_path, "validate", "--ckpt_path=last")
    run(tmp_path, "test", "--ckpt_path=last", "--metrics.test_samples=700", "--metrics.seed=3")
    first, second = json.loads(path.read_text())
    assert first["stage"] == "validate"
    assert second["stage"] == "test"
    assert first["step"] == second["step"] == 1
    assert first["checkpoint"] == str(tmp_path / "checkpoints/last.ckpt")
    assert first["fid"] > first["fid_std"] > 0
    assert first["fid"] != second["fid"]
    asked = {"num_samples": 700, "seed": 3, "split": "train", "real_images": 1797}
    assert asked.items() <= second["protocol"].items()
    assert set(first["versions"]) == {"lightning_igm", "torch", "torchmetrics"}
    run(tmp_path, "validate", "--ckpt_path=last")
    again = json.loads(path.read_text())[2]
    assert again == first


def test_what_is_no_file_of_scores_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"scores\.json: no list of scores is in it"):
        run(tmp_path, "validate")
    assert path.read_text() == "{}"


def test_ring_scores_are_written_too(tmp_path: Path) -> None:
    words = ["--config", "configs/gan/ring.yaml", "--modes.num_samples=500"]
    main(["test", *words, f"--run.dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    (entry,) = json.loads((tmp_path / "scores.json").read_text())
    assert entry["protocol"] == {"num_samples": 500, "seed": 0}
    assert 0 <= entry["modes_covered"] <= 8
