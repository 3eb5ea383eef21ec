"""Runs that are stopped, moved or saved in part: nothing is lost when they go on."""

import json
import shutil

import pytest
import torch
from killed_runs import arguments
from lightning.pytorch import Callback
from test_run_folders import mistake

import lightning_igm
from lightning_igm.cli import main

EPOCHS = ["--trainer.limit_train_batches=6", "--metrics.every_n_steps=null"]


def checkpoint(run, name="last.ckpt"):
    return torch.load(run / "checkpoints" / name, weights_only=False)


def epochs_of(content):
    loop = content["loops"]["fit_loop"]
    return content["epoch"], content["global_step"], loop["epoch_progress"]


@pytest.mark.parametrize("stop", ["--trainer.max_steps=2", "--trainer.max_steps=3", "callback"])
def test_a_run_of_epochs_loses_none_where_it_was_stopped(stop, tmp_path):
    # Two critic steps and one generator step make two batches: six batches are three steps.
    words = [*EPOCHS, "--trainer.max_steps=-1", "--trainer.max_epochs=3"]
    whole = main([*arguments("gan", tmp_path / "whole"), *words])
    run = tmp_path / "run"
    if stop == "callback":  # At the end of an epoch, by who acts there.
        stop = "--trainer.callbacks+=test_stopped_runs.StopAtEpoch"
    main([*arguments("gan", run), *words, stop])
    stopped = checkpoint(run)["global_step"]
    assert stopped < whole.trainer.global_step
    parts = main([*arguments("gan", run), *words, "--ckpt_path=last"])
    assert epochs_of(checkpoint(run)) == epochs_of(checkpoint(tmp_path / "whole"))
    for ours, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_is_not_finished_where_its_last_epoch_was_stopped(tmp_path, capsys):
    words = [*arguments("gan", tmp_path), *EPOCHS, "--trainer.max_epochs=1"]
    main([*words, "--trainer.max_steps=2"])
    capsys.readouterr()
    main([*words, "--trainer.max_steps=-1", "--ckpt_path=last"])
    assert "is finished, at generator step 2" not in capsys.readouterr().err
    assert checkpoint(tmp_path)["global_step"] == 3


def test_a_checkpoint_of_an_epochs_end_is_continued_behind_it(tmp_path):
    words = [*EPOCHS, "--trainer.max_steps=-1"]
    main([*arguments("gan", tmp_path / "whole"), *words, "--trainer.max_epochs=3"])
    every = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_epochs=1"]
    run = [*arguments("gan", tmp_path / "run"), *words, *every]
    main([*run, "--trainer.max_epochs=1"])
    [file] = (tmp_path / "run/checkpoints").glob("epoch=0*")
    file.replace(tmp_path / "run/checkpoints/last.ckpt")
    main([*run, "--trainer.max_epochs=3", "--ckpt_path=last"])
    assert epochs_of(checkpoint(tmp_path / "run")) == epochs_of(checkpoint(tmp_path / "whole"))


def test_max_time_is_that_of_this_process(tmp_path):
    words = [*arguments("gan", tmp_path), "--metrics.every_n_steps=null"]
    limit = "--trainer.max_time=00:01:00:00"
    main([*words, limit, "--trainer.max_steps=4"])
    path = tmp_path / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=False)
    content["callbacks"]["Timer"]["time_elapsed"]["train"] = 3601.0
    torch.save(content, path)
    cli = main([*words, limit, "--trainer.max_steps=8", "--ckpt_path=last"])
    assert cli.trainer.global_step == 8


def test_weights_alone_have_the_average_with_them(tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    only = ["ModelCheckpoint", "every_n_train_steps=4", "save_weights_only=true", f"dirpath={kept}"]
    callback = [f"--trainer.callbacks+={only[0]}", *(f"--trainer.callbacks.{o}" for o in only[1:])]
    main([*arguments("gan", run), "--trainer.max_steps=4", *callback])
    [file] = kept.iterdir()
    assert "optimizer_states" not in torch.load(file, weights_only=False)
    [full, light] = (
        [
            lightning_igm.load(path, weights).sample(4, torch.Generator().manual_seed(0))
            for path in p
        ]
        for weights, p in (("average", (run, file)), ("raw", (run, file)))
    )
    assert torch.equal(*full)
    assert torch.equal(*light)
    assert not torch.equal(full[0], light[0])
    words = [f"--config={run}/config.yaml", f"--run.dir={run}"]
    for path in (run / "checkpoints/last.ckpt", file):
        main(["test", *words, f"--ckpt_path={path}"])
    main(["test", *words, f"--ckpt_path={file}", "--ema.decay=null"])
    entries = json.loads((run / "scores.json").read_text())
    assert [entry["protocol"]["weights"] for entry in entries] == ["average", "average", "raw"]
    assert [entry["step"] for entry in entries] == [4, 4, 4]
    assert entries[0]["fid"] == entries[1]["fid"] != entries[2]["fid"]


def test_weights_without_the_average_that_is_asked_for_are_refused(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    main([*arguments("gan", run), "--trainer.max_steps=1", "--metrics.every_n_steps=null"])
    file = tmp_path / "older.ckpt"
    content = checkpoint(run)
    for name in ("callbacks", "optimizer_states", "lr_schedulers"):
        del content[name]
    torch.save(content, file)
    words = ["test", f"--config={run}/config.yaml", f"--run.dir={run}", f"--ckpt_path={file}"]
    line = mistake(words, monkeypatch, capsys)
    assert line == (
        f"igm: ckpt_path: '{file}' holds weights only, and not their average; set --ema.decay null "
        "to take them as trained"
    )
    with pytest.raises(ValueError, match=r"weights='raw' takes them as trained"):
        lightning_igm.load(file)
    lightning_igm.load(file, weights="raw")


def test_a_checkpoint_without_optimizers_gives_way_to_the_one_before(tmp_path, capsys):
    words = [*arguments("gan", tmp_path), "--metrics.every_n_steps=null"]
    main([*words, "--trainer.max_steps=8"])
    content = checkpoint(tmp_path)
    del content["optimizer_states"]
    torch.save(content, tmp_path / "checkpoints/last.ckpt")
    assert main([*words, "--ckpt_path=last"]).trainer.global_step == 12
    assert "holds weights only, from which no run can resume" in capsys.readouterr().err


@pytest.mark.parametrize("moved", [False, True])
def test_a_runs_config_is_of_the_run_wherever_it_is_used(moved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*arguments("gan", "runs/mine"), "--trainer.max_steps=4", "--metrics.every_n_steps=null"])
    if moved:
        shutil.move("runs/mine", "other")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = "../other" if moved else "../runs/mine"
    words = [f"--config={run}/config.yaml", "--ckpt_path=last", "--trainer.max_steps=8"]
    assert main(["fit", *words]).trainer.default_root_dir == run
    assert checkpoint(tmp_path / run[3:])["global_step"] == 8
    assert not list(tmp_path.joinpath("elsewhere").iterdir())


def test_a_run_without_checkpoints(tmp_path):
    words = [*arguments("gan", tmp_path), "--trainer.max_steps=5", "--metrics.every_n_steps=null"]
    cli = main([*words, "--trainer.enable_checkpointing=false"])
    assert cli.trainer.global_step == 5
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_with_nothing_around_it(tmp_path):
    words = [*arguments("gan", tmp_path), "--trainer.max_steps=5", "--metrics.every_n_steps=null"]
    words = [word for word in words if "enable_" not in word]
    cli = main([*words, "--trainer.barebones=true"])
    assert cli.trainer.global_step == 5
    assert not (tmp_path / "metrics.csv").exists()


class StopAtEpoch(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True
