"""Every callback that ships with Lightning works on generator steps and scores, or is refused."""

import csv
import inspect
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, callbacks

from lightning_igm import GAN, modules
from lightning_igm.cli import console, main

ROOT = Path(__file__).parents[2]
TWENTY = [
    *("fit", f"--config={ROOT}/configs/wgangp/digits.yaml", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--model.generator.init_args.width=4", "--model.critic.init_args.width=4"),
    *("--model.critic_steps=2", "--data.batch_size=16", "--ema.decay=0.5"),
    *("--samples.num_samples=4", "--trainer.max_steps=20", "--trainer.log_every_n_steps=10"),
    *("--metrics.every_n_steps=5", "--metrics.num_samples=80", "--metrics.kid_subset_size=40"),
    *("--metrics.kid_subsets=2", "--metrics.cache_dir=null", "--checkpoint.every_n_steps=4"),
]
WORK = {
    "DeviceStatsMonitor": [],
    "EarlyStopping": ["monitor=fid"],
    "LearningRateMonitor": [],
    "ModelCheckpoint": ["monitor=fid"],
    "ModelSummary": [],
    "TQDMProgressBar": ["refresh_rate=5"],
    "Timer": ["duration=00:01:00:00", "interval=step"],
}
PYTHON_ONLY = {  # Bases, and what takes functions.
    *("BasePredictionWriter", "Callback", "Checkpoint", "LambdaCallback", "ProgressBar"),
    "ThroughputMonitor",
}
NEED_RICH = {"RichModelSummary", "RichProgressBar"}  # A package that we do not bring.
REFUSED = {
    *("BackboneFinetuning", "BaseFinetuning", "BatchSizeFinder", "EMAWeightAveraging"),
    *("GradientAccumulationScheduler", "LearningRateFinder", "ModelPruning"),
    *("OnExceptionCheckpoint", "SpikeDetection", "StochasticWeightAveraging", "WeightAveraging"),
}


def given(name, *arguments):
    return [
        f"--trainer.callbacks+={name}",
        *(f"--trainer.callbacks.{argument}" for argument in arguments),
    ]


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def steps(run, column):
    return [int(row["step"]) for row in rows(run) if row.get(column)]


def mistake(words, monkeypatch, capsys):
    capsys.readouterr()  # What runs before said.
    monkeypatch.setattr(sys, "argv", ["igm", *words])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code not in (0, None)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("igm: ")]
    return line


def test_the_table_has_all_of_them():
    shipped = set(callbacks.__all__)
    assert shipped <= WORK.keys() | PYTHON_ONLY | NEED_RICH | REFUSED
    # Older releases of Lightning have fewer.
    assert (WORK.keys() | PYTHON_ONLY | NEED_RICH | REFUSED) - shipped <= {"EMAWeightAveraging"}


@pytest.mark.parametrize("name", WORK)
def test_a_run_with_one_is_the_run_without(name, tmp_path):
    run = tmp_path / "run"
    bar = f"--trainer.enable_progress_bar={'Progress' in name}"
    cli = main([*TWENTY, f"--run.dir={run}", bar, *given(name, *WORK[name])])
    kind = getattr(callbacks, name)
    assert any(isinstance(callback, kind) for callback in cli.trainer.callbacks)
    order = [int(row["step"]) for row in rows(run)]
    assert order == sorted(order)
    assert order[-1] == cli.trainer.global_step == 20 or name == "EarlyStopping"
    assert steps(run, "generator_loss") == [10, 20][: cli.trainer.global_step // 10]


@pytest.mark.parametrize("name", sorted(REFUSED & set(callbacks.__all__)))
def test_what_cannot_work_is_refused_at_the_start(name, tmp_path, monkeypatch, capsys):
    kind = getattr(callbacks, name)
    run = tmp_path / "run"
    if not inspect.isabstract(kind) and name not in ("BaseFinetuning", "ModelPruning"):
        words = given(f"lightning.pytorch.callbacks.{name}")
        line = mistake([*TWENTY, f"--run.dir={run}", *words], monkeypatch, capsys)
        assert line.startswith(f"igm: trainer.callbacks: {name} is not allowed (")
        assert not run.exists()
    with pytest.raises(ValueError, match=rf"callbacks: {name} is not allowed \("):
        modules.monitors.check_callback(kind)
    with pytest.raises(ValueError, match=r"callbacks: Own is not allowed \("):
        modules.monitors.check_callback(type("Own", (kind,), {}))


# --- scores and losses to monitor --------------------------------------------------------------


def test_early_stopping_looks_at_every_evaluation(tmp_path, caplog):
    words = given("EarlyStopping", "monitor=fid", "patience=2", "min_delta=1000")
    cli = main([*TWENTY, f"--run.dir={tmp_path / 'run'}", *words])
    assert cli.trainer.global_step == 15
    assert "fid did not improve in the last 2 records" in caplog.text


def test_early_stopping_goes_on_where_it_was(tmp_path):
    words = [*TWENTY, f"--run.dir={tmp_path / 'run'}"]
    words += given("EarlyStopping", "monitor=fid", "patience=2", "min_delta=1000")
    # Stopped at an evaluation: its checkpoint knows what was seen there.
    assert main([*words, "--trainer.max_steps=10"]).trainer.global_step == 10
    assert main([*words, "--ckpt_path=last"]).trainer.global_step == 15


def test_a_training_loss_is_looked_at_when_it_is_logged(tmp_path):
    words = given("EarlyStopping", "monitor=critic_loss", "patience=1", "min_delta=1000")
    cli = main([*TWENTY, f"--run.dir={tmp_path / 'run'}", *words, "--trainer.log_every_n_steps=3"])
    assert cli.trainer.global_step == 6


def test_the_best_checkpoints_lie_beside_the_last_and_best_finds_them(tmp_path, monkeypatch):
    run = tmp_path / "run"
    cli = main([*TWENTY, f"--run.dir={run}", *given("ModelCheckpoint", "monitor=fid")])
    history = cli.trainer.callbacks
    scores = next(c for c in history if type(c).__name__ == "ImageMetrics").history
    least = min(scores, key=lambda row: row["fid"])["step"]
    [best] = [p for p in (run / "checkpoints").iterdir() if p.name.startswith("epoch=")]
    assert f"step={least:.0f}." in best.name
    run = run.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    again = main(["test", "--config=moved/config.yaml", "--ckpt_path=best"])
    assert again.trainer.ckpt_path == str(run.relative_to(tmp_path) / "checkpoints" / best.name)


def test_a_checkpoint_for_every_epoch(tmp_path):
    run = tmp_path / "run"
    words = given("ModelCheckpoint", "every_n_epochs=1", "save_top_k=-1", "filename=e{epoch}")
    epochs = ["--trainer.max_epochs=3", "--trainer.max_steps=-1", "--trainer.limit_train_batches=4"]
    main([*TWENTY, f"--run.dir={run}", *words, *epochs])
    names = sorted(path.stem for path in (run / "checkpoints").glob("e*"))
    assert names == ["eepoch=0", "eepoch=1", "eepoch=2"]


MISTAKES = {
    "EarlyStopping monitor=fdi": "EarlyStopping.monitor: 'fdi' is not allowed; it must be fid, kid,"
    " generator_loss, critic_loss, gradient_penalty",
    "ModelCheckpoint monitor=inception_score": "ModelCheckpoint.monitor: 'inception_score' is not "
    "allowed; it must be fid, kid, generator_loss",
    "ModelCheckpoint monitor=fid save_last=true": "ModelCheckpoint.save_last: True is not allowed",
    "ModelCheckpoint train_time_interval=0:01:00": "ModelCheckpoint.train_time_interval: 0:01:00 "
    "is not allowed; use every_n_train_steps",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_give_one_line(words, tmp_path, monkeypatch, capsys):
    line = mistake(
        [*TWENTY, f"--run.dir={tmp_path / 'run'}", *given(*words.split())], monkeypatch, capsys
    )
    assert MISTAKES[words] in line
    assert not (tmp_path / "run").exists()


def test_a_monitor_without_evaluations_gives_one_line(tmp_path, monkeypatch, capsys):
    words = [*TWENTY, f"--run.dir={tmp_path / 'run'}", "--metrics.every_n_steps=null"]
    line = mistake([*words, *given("EarlyStopping", "monitor=fid")], monkeypatch, capsys)
    assert "it must be generator_loss, critic_loss, gradient_penalty (scores: metrics.every" in line


def test_best_without_one_gives_one_line(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    main([*TWENTY, f"--run.dir={run}", "--trainer.max_steps=2", "--metrics.every_n_steps=null"])
    words = [f"--config={run}/config.yaml", "--ckpt_path=best"]
    line = mistake(["test", *words], monkeypatch, capsys)
    assert line.startswith("igm: ckpt_path: 'best' is not there: no checkpoint in")
    line = mistake(["fit", *words], monkeypatch, capsys)
    assert line == ("igm: ckpt_path: 'best' is not allowed with fit; a run resumes from its 'last'")


def test_methods_say_all_that_they_log(trained_of_every_method):
    for model in trained_of_every_method:
        declared = {name for kind in type(model).__mro__ for name in vars(kind).get("logged", ())}
        assert model.latest.keys() <= declared | {f"{player}_loss" for player in model.players}


@pytest.fixture(scope="module")
def trained_of_every_method(tmp_path_factory):
    models = []
    for path in sorted((ROOT / "configs").glob("*/digits.yaml")):
        run = tmp_path_factory.mktemp(path.parent.name) / "run"
        words = [word for word in TWENTY[2:] if "critic" not in word]
        few = ["--trainer.max_steps=1", "--metrics.every_n_steps=null"]
        if path.parent.name == "molm":
            few += ["--model.critic_steps=1"]
        models.append(main(["fit", f"--config={path}", f"--run.dir={run}", *words, *few]).model)
    return models


# --- the axis of what users log ----------------------------------------------------------------


class Logging(GAN):
    def critic_loss(self, real, fake):
        self.log("mine", real.mean())
        return super().critic_loss(real, fake)


class LoggingCallback(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("theirs", torch.tensor(float(trainer.global_step)))


def test_what_users_log_is_on_generator_steps(tmp_path):
    run = tmp_path / "run"
    here = [f"--trainer.callbacks+={__name__}.LoggingCallback", f"--model={__name__}.Logging"]
    words = [word.replace("wgangp", "gan") for word in TWENTY]
    main([*words, f"--run.dir={run}", "--model.critic_steps=5", *here])
    assert steps(run, "mine") == steps(run, "theirs") == steps(run, "generator_loss") == [10, 20]
    assert [float(row["theirs"]) for row in rows(run) if row.get("theirs")] == [10, 20]


@pytest.mark.parametrize("schedule", ["null", "CosineAnnealingLR"])
def test_learning_rates_have_the_players_names(schedule, tmp_path):
    words = [*TWENTY, *given("LearningRateMonitor"), f"--model.generator_scheduler={schedule}"]
    words += ["--model.generator_scheduler.T_max=20"] if schedule != "null" else []
    main([*words, f"--run.dir={tmp_path}"])
    names = {name for row in rows(tmp_path) for name in row if name.startswith("lr-")}
    assert names == {"lr-generator", "lr-critic"}


def test_a_resumed_run_logs_the_same_rates(tmp_path):
    words = [*TWENTY, *given("LearningRateMonitor"), "--trainer.log_every_n_steps=2"]
    main([*words, f"--run.dir={tmp_path / 'whole'}", "--trainer.max_steps=6"])
    # 13 batches: the last has trained the critic once, after four generator steps of three.
    for limit in ("--trainer.limit_train_batches=13", "--trainer.limit_train_batches=null"):
        more = ["--ckpt_path=last"] if "null" in limit else ["--trainer.max_epochs=1", limit]
        main([*words, f"--run.dir={tmp_path / 'parts'}", "--trainer.max_steps=6", *more])
    [whole, parts] = (rows(tmp_path / name) for name in ("whole", "parts"))
    assert steps(tmp_path / "whole", "lr-critic") == [0, 0, 2, 4]
    assert parts == whole
