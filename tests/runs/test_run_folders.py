"""Bad checkpoints, full disks and folders that serve nobody: a clear line, and nothing is lost."""

import csv
import errno
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from killed_runs import arguments, differences, outcome
from PIL import Image

from lightning_igm.cli import console, main
from lightning_igm.files import replacing
from lightning_igm.runs.checkpoints import (
    AtomicCheckpointIO,
    CheckpointNotWrittenError,
    last_good,
    read,
)
from lightning_igm.runs.compare import compare
from lightning_igm.runs.folder import exclusive


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def going_on(run):
    return f"resume with: igm fit --config {run}/config.yaml --run.dir {run} --ckpt_path last"


def mistake(words, monkeypatch, capsys, status=1):
    """The one line that a mistake gives."""
    capsys.readouterr()  # What runs before said.
    monkeypatch.setattr(sys, "argv", ["igm", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code == status
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("igm: ")]
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of eight of twelve steps, and its model."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    cli = main([*arguments("gan", folder), "--trainer.max_steps=8"])
    return folder, cli.model


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def spoil(path, fault):
    whole = path.read_bytes()
    if fault == "malicious":
        torch.save(
            torch.load(path, weights_only=True) | {"more": Malice(path.parent / "ran")}, path
        )
    elif fault == "of another method":
        state = torch.load(path, weights_only=True)
        state["state_dict"] = {f"autoencoder.{key}": v for key, v in state["state_dict"].items()}
        torch.save(state, path)
    elif fault == "one byte":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif fault == "not of a run":
        torch.save({"weights": torch.ones(3)}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"a note"}[fault])


FAULTS = ["cut", "one byte", "empty", "text", "not of a run", "malicious", "of another method"]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_one_before_serves_when_the_last_does_not(run, trained, fault, capsys):
    folder = run / "checkpoints"
    spoil(folder / "last.ckpt", fault)
    found = last_good(folder, trained[1])
    assert found.path == folder / "previous.ckpt"
    assert found.content["global_step"] == 4
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"igm: ckpt_path: '{folder / 'last.ckpt'}' ")
    assert line.endswith(f"; resuming from '{folder / 'previous.ckpt'}'")
    assert not (folder / "ran").exists()


def test_a_run_goes_on_from_the_one_before_to_the_same_end(run, trained, tmp_path):
    straight = contents(trained[0])
    spoil(run / "checkpoints/last.ckpt", "cut")
    run.rename(trained[0].with_name("spoilt"))
    first = outcome(trained[0])
    trained[0].rename(tmp_path / "kept")
    trained[0].with_name("spoilt").rename(trained[0])
    main([*arguments("gan", trained[0]), "--trainer.max_steps=8", "--ckpt_path=last"])
    assert differences(outcome(trained[0]), first) == []
    shutil.rmtree(trained[0])
    (tmp_path / "kept").rename(trained[0])
    assert contents(trained[0]) == straight


@pytest.mark.parametrize("fault", FAULTS)
def test_without_a_good_one_nothing_is_touched(run, fault, monkeypatch, capsys):
    for name in ("last.ckpt", "previous.ckpt"):
        spoil(run / "checkpoints" / name, fault)
    before = contents(run)
    line = mistake([*arguments("gan", run), "--ckpt_path=last"], monkeypatch, capsys)
    assert line.startswith(f"igm: ckpt_path: '{run / 'checkpoints/last.ckpt'}' ")
    assert contents(run) == before


def test_changed_networks_are_named(run, monkeypatch, capsys):
    before = contents(run)
    words = ["--ckpt_path=last", "--model.generator.init_args.width=8"]
    line = mistake([*arguments("gan", run), *words], monkeypatch, capsys)
    assert "does not fit the model" in line
    assert "generator.layers.4.weight ((4,) in the checkpoint, (8,) now) and 4 more" in line
    assert contents(run) == before


def test_another_kind_of_optimizer_is_named(run, monkeypatch, capsys):
    before = contents(run)
    words = ["--ckpt_path=last", "--model.critic_optimizer=SGD", "--model.critic_optimizer.lr=0.1"]
    line = mistake([*arguments("gan", run), *words], monkeypatch, capsys)
    assert "were Adam, Adam in the checkpoint and are Adam, SGD now" in line
    kept = contents(run)
    assert all(kept[path] == content for path, content in before.items())


def test_a_leg_without_the_table_of_metrics_leaves_its_rows(run):
    rows = (run / "metrics.csv").read_text()
    words = [*arguments("gan", run), "--ckpt_path=last"]
    main([*words, "--trainer.max_steps=10", "--trainer.logger=false"])
    main([*words, "--trainer.max_steps=12"])
    assert (run / "metrics.csv").read_text().startswith(rows)


def test_the_row_of_a_short_run_goes_when_the_run_goes_on(tmp_path):
    def steps():
        with (tmp_path / "run/metrics.csv").open() as file:
            return [int(row["step"]) for row in csv.DictReader(file) if row["generator_loss"]]

    words = [*arguments("gan", tmp_path / "run"), "--trainer.log_every_n_steps=4"]
    main([*words, "--trainer.max_steps=3"])
    assert steps() == [3]
    with pytest.raises(ValueError, match=r"no score 'fid'; its metrics.csv has .*generator_loss"):
        compare([(None, tmp_path / "run")], ["fid"], tmp_path / "out")
    main([*words, "--trainer.max_steps=9", "--ckpt_path=last"])
    assert steps() == [4, 8]


def test_what_another_run_is_writing_is_left_alone(tmp_path):
    mine, other = tmp_path / ".last.ckpt.part", tmp_path / "other" / ".config.yaml.part"
    other.parent.mkdir()
    for path in (mine, other, other.with_name(".lock")):
        path.touch()
    with exclusive(tmp_path):
        assert not mine.exists()
        assert other.exists()


def test_a_finished_run_says_so_and_does_nothing(run, capsys):
    before = {path: (path.stat().st_mtime_ns, data) for path, data in contents(run).items()}
    main([*arguments("gan", run), "--trainer.max_steps=8", "--ckpt_path=last"])
    assert f"igm: the run in {run} is finished, at generator step 8\n" in capsys.readouterr().err
    after = {path: (path.stat().st_mtime_ns, data) for path, data in contents(run).items()}
    assert after == before


def test_a_run_of_epochs_is_finished_too(tmp_path, capsys):
    words = [*arguments("mmdnet", tmp_path), "--trainer.max_steps=-1", "--trainer.max_epochs=2"]
    words += ["--trainer.limit_train_batches=3", "--metrics.every_n_steps=null"]
    assert main(words).trainer.global_step == 6
    before = contents(tmp_path)
    main([*words, "--ckpt_path=last"])
    assert "is finished, at generator step 6\n" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_only_one_process_runs_in_a_folder(run, monkeypatch, capsys):
    before = contents(run)
    with exclusive(run):
        line = mistake([*arguments("gan", run), "--ckpt_path=last"], monkeypatch, capsys)
    assert f"another process is running in '{run}'" in line
    assert contents(run) == before


def test_a_folder_that_cannot_be_made_gives_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    line = mistake(arguments("gan", tmp_path / "file/run"), monkeypatch, capsys)
    assert line.startswith(f"igm: run.dir: '{tmp_path / 'file/run'}' cannot be written to (")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_read_only_gives_one_line(run, monkeypatch, capsys):
    def refuse(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(run)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *args, **kwargs)

    opened, before = os.open, contents(run)
    monkeypatch.setattr(os, "open", refuse)
    line = mistake([*arguments("gan", run), "--ckpt_path=last"], monkeypatch, capsys)
    assert line == f"igm: run.dir: '{run}' cannot be written to (Read-only file system)"
    assert contents(run) == before


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """No file can become larger than 10,000 bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_good_one(tmp_path, small_disk):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointNotWrittenError) as error:
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(10_000)}, path)
    assert str(error.value) == (
        f"checkpoint: '{path}' cannot be written (File too large); last good checkpoint: {path}"
    )
    assert contents(tmp_path) == before


def test_a_full_disk_stops_the_run_with_one_line(tmp_path, monkeypatch, capsys):
    usual, synced = os.fsync, []

    def full(file):
        name = os.readlink(f"/proc/self/fd/{file}")
        synced.append(name)
        if sum(".ckpt" in name for name in synced) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(file)

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "run/checkpoints/last.ckpt"
    line = mistake(arguments("gan", tmp_path / "run"), monkeypatch, capsys)
    assert line == (
        f"igm: checkpoint: '{path}' cannot be written (No space left on device); "
        f"last good checkpoint: {path}; {going_on(tmp_path / 'run')}"
    )
    assert read(path).content["global_step"] == 4
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_too_full_for_a_picture_stops_the_run_with_one_line(tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    line = mistake(arguments("gan", tmp_path / "run"), monkeypatch, capsys)
    assert line == (
        "igm: a file cannot be written (No space left on device); make room, and resume with "
        "--ckpt_path last: earlier checkpoints are intact"
    )


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, small_disk):
    path = tmp_path / "metrics.csv"
    path.write_text("old")

    def write():
        with replacing(path) as file:
            file.write("x" * 20_000)

    with pytest.raises(OSError, match="File too large"):
        write()
    assert contents(tmp_path) == {path: b"old"}
