"""Checkpoints that another version of this package, or of Lightning, wrote."""

import sys

import pytest
import torch

from lightning_igm.cli import console, main

SMALL = [
    *("--config=gan/digits", "--trainer.accelerator=cpu", "--metrics.every_n_steps=null"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    main(["fit", *SMALL, f"--run.dir={run}", "--trainer.max_steps=1"])
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("missing", ["noise", "settings", "critic_steps_taken"])
def test_what_a_checkpoint_lacks_is_named_in_one_line(
    missing, checkpoint, tmp_path, monkeypatch, capsys
):
    state = {k: v for k, v in checkpoint["training_state"].items() if k != missing}
    torch.save({**checkpoint, "training_state": state}, tmp_path / "old.ckpt")
    arguments = [*SMALL, f"--run.dir={tmp_path / 'run'}", f"--ckpt_path={tmp_path / 'old.ckpt'}"]
    monkeypatch.setattr(sys, "argv", ["igm", "fit", *arguments, "--trainer.max_steps=2"])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code == 1
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("igm: ")]
    assert f"has no '{missing}'" in line
    assert "another version" in line


def test_a_checkpoint_of_a_later_lightning_goes_on_with_a_warning(checkpoint, tmp_path):
    torch.save({**checkpoint, "pytorch-lightning_version": "99.0"}, tmp_path / "later.ckpt")
    arguments = [*SMALL, f"--run.dir={tmp_path / 'run'}", f"--ckpt_path={tmp_path / 'later.ckpt'}"]
    with pytest.warns(UserWarning, match=r"99\.0"):
        cli = main(["fit", *arguments, "--trainer.max_steps=2"])
    assert cli.trainer.global_step == 2
