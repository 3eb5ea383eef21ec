"""The last message of a run, and that the command in it resumes the run."""

import os
import shlex
import signal

import pytest
from lightning.pytorch import Callback

from lightning_igm import GAN
from lightning_igm.cli import main

SMALL = [
    *("fit", "--config=gan/digits", "--trainer.accelerator=cpu", "--metrics.every_n_steps=null"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    "--checkpoint.every_n_steps=1",
]


class Ends(Callback):
    """End the run after so many batches."""

    def __init__(self, how: str, batches: int = 2):
        self.how = how
        self.batches = batches

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if batch_idx + 1 == self.batches:
            if self.how == "limit":
                trainer.should_stop = True
            elif self.how == "error":
                raise RuntimeError("of the user's own")
            else:
                os.kill(os.getpid(), signal.Signals[self.how])


@pytest.fixture
def said(capsys):
    def lines():
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("igm: ")]

    return lines


def go_on(line):
    words = shlex.split(line.partition("resume with: ")[2])
    assert words[0] == "igm"
    return main(words[1:])


@pytest.mark.parametrize("limit", ["steps=2", "epochs=1"])
def test_a_finished_run_tells_its_folder(limit, tmp_path, said):
    run = tmp_path / "run"
    words = ["--trainer.max_steps=-1", f"--trainer.max_{limit}", "--data.batch_size=800"]
    main([*SMALL, f"--run.dir={run}", *words])
    assert said() == [f"igm: the run in {run} is finished, at generator step 2"]


@pytest.mark.parametrize("how", ["limit", "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("unit", ["steps", "epochs"])
def test_a_stopped_run_tells_the_line_that_goes_on(how, unit, tmp_path, said):
    run = tmp_path / "a run"
    words = ["--trainer.max_steps=-1", f"--trainer.max_{unit}={4 if unit == 'steps' else 1}"]
    ends = ["--trainer.callbacks=test_outcome.Ends", f"--trainer.callbacks.how={how}"]
    ends += ["--data.batch_size=400", f"--run.dir={run}"]
    if how == "limit":
        main([*SMALL, *words, *ends])
    else:
        with pytest.raises(SystemExit):
            main([*SMALL, *words, *ends])
    [line] = said()
    step = 2 if how == "limit" else 3  # A signal lets the batch that it meets end.
    assert line == (
        f"igm: the run in {run} was stopped at generator step {step}; resume with: igm fit "
        f"--config '{run}/config.yaml' --run.dir '{run}' --ckpt_path last"
    )
    if unit == "steps":
        assert go_on(line).trainer.global_step == 4
        assert said() == [f"igm: the run in {run} is finished, at generator step 4"]


def test_an_error_keeps_the_line_and_its_config(tmp_path, said):
    run = tmp_path / "run"
    main([*SMALL, "--trainer.max_steps=1", f"--run.dir={run}"])
    ends = ["--trainer.callbacks=test_outcome.Ends", "--trainer.callbacks.how=error"]
    longer = [*SMALL, "--trainer.max_steps=5", f"--run.dir={run}", "--ckpt_path=last"]
    with pytest.raises(RuntimeError, match="of the user's own") as error:
        main([*longer, *ends])
    # Not the first config, by which the run is finished.
    line = f"resume with: igm fit --config {run}/config-2.yaml --run.dir {run} --ckpt_path last"
    assert error.value.__notes__ == [line]


def test_nothing_goes_on_where_there_is_no_checkpoint(tmp_path, monkeypatch, said):
    def fails(self, real, fake):
        raise ValueError("of the user's own")

    monkeypatch.setattr(GAN, "generator_loss", fails)
    with pytest.raises(ValueError, match="of the user's own") as error:
        main([*SMALL, "--trainer.max_steps=1", f"--run.dir={tmp_path / 'run'}"])
    assert not hasattr(error.value, "__notes__")
    assert said() == []


def test_a_trial_says_nothing(tmp_path, said):
    main([*SMALL, "--trainer.fast_dev_run=true", f"--run.dir={tmp_path / 'run'}"])
    assert said() == []
