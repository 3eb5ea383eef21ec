"""A run that goes on with batches of another size: where in the epoch, and what is told."""

import logging
from itertools import chain

import pytest
from test_image_data_module import count_and_collect, ids, ready

from lightning_igm.cli import main


def stopped(batches, **settings):
    data = ready(**settings)
    seen = list(chain(*count_and_collect(data, batches)))
    return data.state_dict(), seen


@pytest.mark.parametrize(
    ("batches", "now", "start"), [(3, 2, 12), (3, 3, 12), (1, 3, 6), (4, 5, 20), (5, 1, 20)]
)
def test_no_image_comes_twice_and_fewer_than_a_batch_are_left_out(batches, now, start, caplog):
    caplog.set_level(logging.INFO)
    state, seen = stopped(batches, batch_size=4)
    whole = [i for batch in ready(batch_size=1).train_dataloader() for i in ids(batch)]
    data = ready(batch_size=now)
    data.load_state_dict(state)
    rest = [i for batch in data.train_dataloader() for i in ids(batch)]
    if start + now > 23:  # No whole batch is left of the epoch.
        assert data.epoch == 2
        assert "; epoch 1 begins\n" in caplog.text
        return
    assert rest == whole[start : start + len(rest)]
    assert start + len(rest) > 23 - now
    assert not set(rest) & set(seen)
    assert (
        f"data.batch_size: 4 images in the checkpoint, {now} now, of all processes together; epoch "
        f"0 resumes at image {start} (images left out before it: {start - 4 * batches})\n"
    ) in caplog.text


def test_the_same_batch_on_other_processes_is_the_same_place(caplog):
    caplog.set_level(logging.INFO)
    state, _ = stopped(3, batch_size=4)
    data = ready(0, 2, batch_size=2)
    data.load_state_dict(state)
    assert data.state_dict() == state
    data = ready(0, 2, batch_size=4)
    data.load_state_dict(stopped(1, batch_size=4)[0])
    assert data.batches_trained == 1
    assert "4 images in the checkpoint, 8 now" in caplog.text
    assert "resumes at image 8 (images left out before it: 4)" in caplog.text


def test_checkpoints_without_the_size_go_on_as_before(caplog):
    caplog.set_level(logging.INFO)
    data = ready(batch_size=2)
    data.load_state_dict({"epoch": 1, "batches_trained": 3})
    assert data.batches_trained == 3
    assert not caplog.text


def test_it_is_told_at_the_command_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    words = ["fit", "--config=gan/digits", "--trainer.accelerator=cpu", "--data.batch_size=50"]
    words += ["--trainer.enable_progress_bar=false", "--metrics.every_n_steps=null"]
    words += [f"--run.dir={tmp_path / 'run'}", "--trainer.max_steps=3"]
    main(words)
    assert "data.batch_size: " not in caplog.text
    more = ["--data.batch_size=100", "--trainer.max_steps=5", "--ckpt_path=last"]
    cli = main([*words, *more])
    assert "data.batch_size: 50 images in the checkpoint, 100 now" in caplog.text
    assert "epoch 0 resumes at image 200 (images left out before it: 50)" in caplog.text
    assert cli.datamodule.batches_trained == 4
