"""The table of networks, and what of Lightning's messages is not shown."""

import logging

import pytest
import torch
from lightning.pytorch.callbacks import ModelSummary

from lightning_igm import GAN
from lightning_igm.callbacks.network_summary import NetworkSummary, with_network_summary
from lightning_igm.cli import main

SMALL = [
    *("fit", "--config=gan/digits", "--trainer.accelerator=cpu", "--metrics.every_n_steps=null"),
    *("--trainer.enable_progress_bar=false", "--trainer.max_steps=1"),
]
DEEP = ["--trainer.callbacks+=ModelSummary", "--trainer.callbacks.max_depth=2"]


@pytest.mark.parametrize("more", [[], DEEP], ids=["default", "deep"])
def test_no_operations_that_nobody_counted_and_no_advertisement(more, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    main([*SMALL, f"--run.dir={tmp_path / 'run'}", *more])
    assert ("generator.layers" in caplog.text) == bool(more)
    assert "Total estimated model params size (MB)" in caplog.text
    assert "flops" not in caplog.text.lower()
    assert "litlogger" not in caplog.text
    assert "litmodels" not in caplog.text
    assert "GPU available: " in caplog.text  # What is of use is shown.
    assert "`Trainer.fit` stopped: `max_steps=1` reached." in caplog.text


def test_operations_that_are_counted_are_shown(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(GAN, "example_input_array", torch.zeros(2, 48), raising=False)
    main([*SMALL, f"--run.dir={tmp_path / 'run'}"])
    assert "Total Flops" in caplog.text


def test_no_table_where_none_is_wanted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    main([*SMALL, f"--run.dir={tmp_path / 'run'}", "--trainer.enable_model_summary=false"])
    assert "Total params" not in caplog.text


def test_a_users_own_summary_stays():
    class Own(ModelSummary):
        pass

    own, other, plain = Own(), Own(), ModelSummary(3)
    kept, ours, depth = with_network_summary([own, other, plain], [own, plain])
    assert kept is own
    assert type(ours) is type(depth) is NetworkSummary
    assert depth._max_depth == 3
