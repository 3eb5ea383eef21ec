"""Options of the trainer that would do nothing are refused, with the one that does."""

import pytest

from lightning_igm.cli import main
from lightning_igm.cli.trainer_options import check_slurm, check_trainer_options

SMALL = [
    *("--config=gan/digits", "--trainer.accelerator=cpu", "--metrics.every_n_steps=null"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]
REFUSED = {
    "accumulate_grad_batches=2": "2 is not allowed; it must be 1; .* data.batch_size",
    "gradient_clip_val=1.5": "1.5 is not allowed; it must be null; model.gradient_clip ",
    "gradient_clip_algorithm=value": "value is not allowed; it must be null; model.gradient_clip ",
    "val_check_interval=10": "10 is not allowed; it must be null; .* metrics.every_n_steps ",
    "limit_val_batches=2": "2.* is not allowed; .* metrics.every_n_steps .* metrics.num_samples ",
    "overfit_batches=3": "3 is not allowed; it must be 0; a data module of few images",
    "model_registry=x": "x is not allowed; it must be null; ",
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_does_nothing_is_refused(option, tmp_path):
    words = ["fit", *SMALL, f"--run.dir={tmp_path / 'run'}", f"--trainer.{option}"]
    name = option.partition("=")[0]
    with pytest.raises(ValueError, match=rf"^trainer\.{name}: {REFUSED[option]}") as error:
        main(words)
    assert "\n" not in str(error.value)
    assert "utomatic" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_gradient_clip_is_the_option_that_is_named():
    assert main([*SMALL, "--model.gradient_clip=1.5"], run=False).model.gradient_clip == 1.5


def test_validation_within_fit_can_be_had(tmp_path):
    """With a cadence of Lightning's given, its other options do what they say."""
    words = ["--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=2"]
    words += ["--metrics.num_samples=600", "--metrics.kid_subsets=3", "--trainer.max_steps=2"]
    cli = main(["fit", *SMALL, f"--run.dir={tmp_path / 'run'}", *words])
    assert cli.trainer.callback_metrics["fid"] > 0


def test_defaults_and_other_commands_pass():
    options = dict(main(SMALL, run=False).config.trainer)
    check_trainer_options(options, fits=True)
    for no_validation in (0, 0.0, 1.0, None):
        check_trainer_options({**options, "limit_val_batches": no_validation}, fits=True)
    check_trainer_options({**options, "limit_val_batches": 2}, fits=False)


@pytest.mark.parametrize("which", ["train", "test", "predict"])
@pytest.mark.parametrize("limit", ["1", "1.0", "2", "0.5"])
def test_a_limit_is_a_number_of_batches_or_a_share_as_written(which, limit):
    config = main([*SMALL, f"--trainer.limit_{which}_batches={limit}"], run=False).config.trainer
    assert str(config[f"limit_{which}_batches"]) == limit


SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    "more", [{}, {"SLURM_PROCID": "0"}, {"SLURM_NTASKS_PER_NODE": "4"}], ids=str
)
def test_one_process_in_an_allocation_for_several_is_told_what_to_do(more, tmp_path, monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": "4", **more}.items():
        monkeypatch.setenv(name, value)
    words = ["fit", *SMALL, f"--run.dir={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=r"^SLURM_NTASKS: 4 is not allowed .* srun before the"):
        main(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"},
        {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "2"},
    ],
    ids=["one task", "interactive", "started by srun"],
)
def test_what_slurm_started_whole_passes(more, monkeypatch):
    for name, value in {**SLURM, **more}.items():
        monkeypatch.setenv(name, value)
    check_slurm()
