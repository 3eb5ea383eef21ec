"""Checkpoints that another version of this package, or of Lightning, wrote."""

import sys
from copy import deepcopy
from functools import reduce

import pytest
import torch

from lightning_igm import load
from lightning_igm.cli import console, main

SMALL = [
    *("--config=gan/digits", "--trainer.accelerator=cpu", "--metrics.every_n_steps=null"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--ema.decay=0.5", "--samples.every_n_steps=1"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    main(["fit", *SMALL, f"--run.dir={run}", "--trainer.max_steps=1"])
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def named(state, name):
    """Lightning's own callbacks have their arguments in the key."""
    return state[next(key for key in state if key.startswith(name))]


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        (("training_state",), "noise"),
        (("training_state",), "settings"),
        (("training_state",), "critic_steps_taken"),
        (("callbacks", "SampleGrid"), "noise"),
        (("callbacks", "GeneratorEMA"), "average"),
        (("callbacks", "GeneratorCheckpoint"), "dirpath"),
        (("exact_resume",), "rows"),
        (("exact_resume",), "random"),
        (("DigitsDataModule",), "epoch"),
        (("DigitsDataModule",), "batches_trained"),
    ],
)
def test_what_a_checkpoint_lacks_is_named_in_one_line(
    part, missing, checkpoint, tmp_path, monkeypatch, capsys
):
    old = deepcopy(checkpoint)
    state = reduce(named, part, old)
    state["renamed"] = state.pop(missing)
    torch.save(old, tmp_path / "old.ckpt")
    arguments = [*SMALL, f"--run.dir={tmp_path / 'run'}", f"--ckpt_path={tmp_path / 'old.ckpt'}"]
    monkeypatch.setattr(sys, "argv", ["igm", "fit", *arguments, "--trainer.max_steps=2"])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code == 1
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("igm: ")]
    assert f"has no '{missing}'" in line
    assert "another version" in line


def test_weights_of_another_version_are_one_line_of_load(checkpoint, tmp_path):
    old = deepcopy(checkpoint)
    old["state_dict"].popitem()
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"does not fit lightning_igm.* another version") as error:
        load(tmp_path / "old.ckpt")
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_a_later_lightning_goes_on_with_a_warning(checkpoint, tmp_path):
    torch.save({**checkpoint, "pytorch-lightning_version": "99.0"}, tmp_path / "later.ckpt")
    arguments = [*SMALL, f"--run.dir={tmp_path / 'run'}", f"--ckpt_path={tmp_path / 'later.ckpt'}"]
    with pytest.warns(UserWarning, match=r"99\.0"):
        cli = main(["fit", *arguments, "--trainer.max_steps=2"])
    assert cli.trainer.global_step == 2


def test_averages_of_another_version_are_one_line_of_load(checkpoint, tmp_path):
    old = deepcopy(checkpoint)
    average = old["callbacks"]["GeneratorEMA"]["average"]
    average.pop(next(iter(average)))
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"does not fit lightning_igm.* another version"):
        load(tmp_path / "old.ckpt")


def test_a_checkpoint_of_a_first_lightning_is_refused(checkpoint, tmp_path):
    torch.save(checkpoint | {"pytorch-lightning_version": "1.5.0"}, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"was written by Lightning 1\.5\.0; it must be 2 or"):
        load(tmp_path / "old.ckpt")


def test_weights_alone_are_loaded_and_not_gone_on_from(checkpoint, tmp_path):
    path = tmp_path / "weights.ckpt"
    extra = ("callbacks", "optimizer_states", "lr_schedulers", "exact_resume")
    torch.save({key: value for key, value in checkpoint.items() if key not in extra}, path)
    assert load(path, weights="raw").sample(2).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"path: .* holds weights only, and not the average"):
        load(path)
    with pytest.raises(ValueError, match=r"ckpt_path: .* holds weights only"):
        main(["fit", *SMALL, f"--run.dir={tmp_path / 'run'}", f"--ckpt_path={path}"])
