"""The command line as a user meets it: runs, continued runs, and mistakes."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import slurm

from lightning_igm import MoLM
from lightning_igm.cli import console, main

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--config", str(ROOT / "configs/molm/digits.yaml"), "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--model.critic_steps=2", "--model.critic_interval=3", "--metrics.every_n_steps=null"),
]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def mistake(arguments, monkeypatch, capsys) -> str:
    """The one line that a mistake gives."""
    capsys.readouterr()  # What runs before said.
    monkeypatch.setattr(sys, "argv", ["igm", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code not in (0, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("igm: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    main(["fit", *SMALL, f"--run.dir={run}", "--trainer.max_steps=4", "--ema.decay=0.5"])
    return run


def test_run_false_gives_the_objects():
    cli = main(SMALL, run=False)
    assert cli.model.sample(3).shape == (3, 3, 16, 16)
    assert cli.datamodule.batch_size > 0
    assert cli.trainer.max_steps > 0


def test_default_folder_is_fresh_and_named_by_preset_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [main(SMALL, run=False).trainer.default_root_dir for _ in range(1)]
    assert Path(runs[0]).parent.name == "runs"
    assert Path(runs[0]).name.startswith("molm-digits-2")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_of_a_checkpoint(command, trained, capsys):
    before = files(trained)
    config = ["--config", str(trained / "config.yaml"), "--ckpt_path=last"]
    cli = main([command, *config, "--metrics.num_samples=600", "--metrics.kid_subsets=3"])
    assert cli.trainer.callback_metrics["fid"] > 0
    assert "600 generated and 1,797 training images" in capsys.readouterr().out
    assert files(trained) == before | {"scores.json"}


def test_predict_writes_images_and_refuses_to_write_again(trained, monkeypatch, capsys, tmp_path):
    checkpoint = trained / "checkpoints/last.ckpt"
    config = ["--config", trained / "config.yaml", f"--ckpt_path={checkpoint}"]
    config += [f"--run.dir={tmp_path}", "--trainer.limit_predict_batches=2"]
    main(["predict", *map(str, config)])
    pictures = sorted((tmp_path / "predictions").iterdir())
    assert len(pictures) == 100
    assert pictures[0].name == "00000000.png"
    assert "is not empty" in mistake(["predict", *config], monkeypatch, capsys)


def test_later_config_files_and_what_is_typed_win(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("model:\n  init_args:\n    penalty_weight: 3.0\n    critic_interval: 7\n")
    cli = main([*SMALL[:2], "--config", str(more), "--model.penalty_weight=5"], run=False)
    assert cli.model.penalty_weight == 5
    assert cli.model.critic_interval == 7


def test_interpolation_reaches_across_files_and_what_is_typed(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text(
        "model:\n  init_args:\n    generator:\n      class_path: DCGANGenerator\n"
        "      init_args:\n        image_size: ${data.init_args.size}\n        width: 8\n"
        "        kernel_size: 4\n    critic:\n      class_path: DCGANCritic\n"
        "      init_args:\n        image_size: ${data.init_args.size}\n"
    )
    cli = main([*SMALL, "--config", str(more), "--data.size=32"], run=False)
    assert cli.model.generator.image_shape == (3, 32, 32)


def test_own_loss_by_class_path_keeps_the_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(
        "from lightning_igm import AdversarialModule\n\n\n"
        "class LeastSquaresGAN(AdversarialModule):\n"
        "    def critic_loss(self, real, fake):\n"
        "        real, fake = self.critic(real), self.critic(fake)\n"
        "        return (real - 1).square().mean() + fake.square().mean()\n\n"
        "    def generator_loss(self, real, fake):\n"
        "        return (self.critic(fake) - 1).square().mean()\n"
    )
    preset = str(ROOT / "configs/gan/digits.yaml")
    cli = main(["--config", preset, "--model", "my_losses.LeastSquaresGAN"], run=False)
    assert type(cli.model).__name__ == "LeastSquaresGAN"
    assert cli.model.generator.image_shape == (3, 16, 16)


def test_values_typed_on_resume_win_over_the_checkpoints(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = str(trained / "checkpoints/last.ckpt")
    arguments = [*SMALL, f"--ckpt_path={checkpoint}", "--model.penalty_weight=9"]
    cli = main(["validate", *arguments, "--metrics.num_samples=600", "--metrics.kid_subsets=3"])
    assert cli.model.penalty_weight == 9


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(trained, monkeypatch, capsys):
    before = {name: (trained / name).read_bytes() for name in files(trained)}
    line = mistake(["fit", *SMALL, f"--run.dir={trained}"], monkeypatch, capsys)
    assert "already holds a run" in line
    assert {name: (trained / name).read_bytes() for name in files(trained)} == before


def test_last_continues_the_run_in_its_folder(tmp_path):
    run = f"--run.dir={tmp_path / 'run'}"
    schedules = [f"--model.{player}_scheduler.T_max=6" for player in ("generator", "critic")]
    main(["fit", *SMALL, run, "--trainer.max_steps=3", *schedules])
    cli = main(["fit", *SMALL, run, "--trainer.max_steps=6", "--ckpt_path=last"])
    assert cli.trainer.global_step == 6
    straight = main(["fit", *SMALL, f"--run.dir={tmp_path / 'other'}", "--trainer.max_steps=6"])
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, cli.model.state_dict()[name]), name
    # The continued run was given another length: its config is kept beside the first.
    assert "config-2.yaml" in files(tmp_path / "run")


def test_last_without_a_checkpoint_starts_the_run(tmp_path):
    run = f"--run.dir={tmp_path / 'run'}"
    cli = main(["fit", *SMALL, run, "--trainer.max_steps=1", "--ckpt_path=last"])
    assert cli.trainer.global_step == 1


def test_last_is_looked_for_where_the_checkpoints_are(tmp_path, monkeypatch, capsys):
    words = [*SMALL, f"--run.dir={tmp_path / 'run'}", f"--checkpoint.dirpath={tmp_path / 'kept'}"]
    words += ["--trainer.log_every_n_steps=1", "--checkpoint.every_n_steps=1"]
    main(["fit", *words, "--trainer.max_steps=2"])
    cli = main(["fit", *words, "--trainer.max_steps=3", "--ckpt_path=last"])
    assert cli.trainer.global_step == 3
    log = (tmp_path / "run/metrics.csv").read_text()
    assert log.splitlines()[-1].startswith("3,")
    (tmp_path / "kept").rename(tmp_path / "gone")
    again = ["fit", *words, "--trainer.max_steps=4", "--ckpt_path=last"]
    assert "'last' is not there" in (line := mistake(again, monkeypatch, capsys))
    assert "has come to step 3" in line
    assert (tmp_path / "run/metrics.csv").read_text() == log


MISTAKES = {
    "unknown class": (["--model=NoSuch"], ["model", "'NoSuch'", "MMDNet, MoLM"]),
    "empty class": (["--model="], ["model", "'' is not known", "MMDNet, MoLM"]),
    "unknown data": (["--data=NoData"], ["data", "'NoData'", "DigitsDataModule"]),
    "unknown network": (["--model.generator=NoNet"], ["generator", "'NoNet'", "DCGANGenerator"]),
    "unknown key": (["--model.no_key=3"], ["no_key", "critic_interval, "]),
    "unknown key of the trainer": (["--trainer.no_key=3"], ["no_key", "max_steps, "]),
    "unknown key of all": (["--no_key=3"], ["no_key", "model, "]),
    "critic of another size": (
        ["--model.critic.image_size=32"],
        ["critic", "(2, 3, 16, 16)", "32"],
    ),
    "unknown optimizer": (
        ["--model.generator_optimizer=NoOptimizer"],
        ["generator_optimizer", "'NoOptimizer'", "AdamW"],
    ),
    "unknown key of data": (["--data.no_key=3"], ["no_key", "batch_size, "]),
    "wrong type": (["--model.critic_steps=abc"], ["critic_steps", "int", "abc"]),
    "value range": (
        ["--model.generator.init_args.output=tanh"],
        ["generator", "[-1.0, 1.0]", "[0.0, 1.0]"],
    ),
    "image size": (["--model.generator.init_args.image_size=32"], ["(3, 32, 32)", "(3, 16, 16)"]),
    "latent size": (
        ["--model.latent_dim=5"],
        ["latent_dim", "5", "48", "must be equal"],
    ),
    "negative interval": (["--model.critic_interval=-5"], ["critic_interval", "-5", "1 or more"]),
    "negative steps": (["--model.critic_steps=-1"], ["critic_steps", "-1", "0 or more"]),
    "negative penalty": (["--model.penalty_weight=-1"], ["penalty_weight", "-1", "0 or more"]),
    "negative cadence": (["--samples.every_n_steps=-2"], ["every_n_steps", "-2", "1"]),
    "negative checkpoint cadence": (
        ["--checkpoint.every_n_steps=-2"],
        ["every_n_steps", "-2", "1"],
    ),
    "estimator": (["--model.estimator=three_batch"], ["estimator", "three_batch", "two_batch"]),
    "u-statistic with batch norm": (
        ["--model.estimator=u_statistic"],
        ["estimator", "u_statistic", "BatchNorm2d", "one_batch"],
    ),
    "half precision": (["--trainer.precision=16-mixed"], ["precision", "16-mixed", "bf16-mixed"]),
    "batch size": (["--data.batch_size=5000"], ["batch_size", "5000", "1797"]),
    "checkpoint path": (["--ckpt_path=nowhere.ckpt"], ["ckpt_path", "nowhere.ckpt"]),
    "interpolation": (["--model.latent_dim=${no.where}"], ["no.where"]),
    "config file": (["--config=nowhere.yaml"], ["nowhere.yaml"]),
    "no config": (["--config"], ["config", "''", "igm presets"]),
    "preset without its option": (["quickstart"], ["'quickstart'", "--config quickstart"]),
    "schedule without an argument": (
        ["--model.generator_scheduler=StepLR"],
        ["model.generator_scheduler.step_size", "not given"],
    ),
    "optimizer with a closure": (
        ["--model.critic_optimizer=LBFGS"],
        ["critic_optimizer", "LBFGS", "closure"],
    ),
    "optimizer of sparse gradients": (
        ["--model.generator_optimizer=SparseAdam"],
        ["generator_optimizer", "SparseAdam", "dense"],
    ),
    "no optimizer": (["--model.critic_optimizer=null"], ["critic_optimizer", "None"]),
    "rate out of range": (["--model.critic_optimizer.lr=-1"], ["critic_optimizer", "-1"]),
    "seed out of range": (["--seed_everything=-3"], ["seed_everything", "-3"]),
    "unknown logger": (["--trainer.logger=WandbLoger"], ["trainer.logger", "WandbLogger"]),
    "argument of a callback": (
        ["--trainer.callbacks+=CriticSpectrum", "--trainer.callbacks.every_n_steps=0"],
        ["CriticSpectrum.every_n_steps", "0", "1 or more"],
    ),
    "generator of pairs": (["--model.generator=test_cli.PairGenerator"], ["generator", "tuple"]),
    "generator without parameters": (
        ["--model.generator=test_cli.FixedGenerator"],
        ["generator", "FixedGenerator", "no parameters"],
    ),
    "critic with batch norm": (
        ["--model.critic=test_cli.BatchNormCritic"],
        ["critic", "BatchNorm2d", "batch normalization"],
    ),
    "critic with unsupported layer": (
        ["--model.critic=test_cli.LayerNormCritic"],
        ["critic", "LayerNorm", "Linear and Conv2d"],
    ),
}


class PairGenerator(torch.nn.Linear):
    latent_dim = 4

    def __init__(self):
        super().__init__(4, 4)

    def forward(self, latent):
        return super().forward(latent), latent


class FixedGenerator(torch.nn.Identity):
    latent_dim = 4


IN_FILES = {
    "model: {init_args: {critic_step: 2}}": ["model.critic_step:", "critic_steps"],
    "data: {init_args: {noize: 1}}": ["data.noize:", "noise"],
    "model: {init_args: {generator: {init_args: {wide: 4}}}}": ["model.generator.wide:", "width"],
    "model: {init_args: {critic_steps: two}}": ["model.critic_steps:", "two", "int"],
    "": ["own.yaml", "no options"],
    "- 1": ["own.yaml", "no options"],
    "a: [": ["own.yaml", "YAML"],
}


@pytest.mark.parametrize("text", IN_FILES)
def test_mistake_in_a_file_names_the_whole_key(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "own.yaml").write_text(text)
    arguments = ["fit", *SMALL, f"--run.dir={tmp_path / 'run'}", f"--config={tmp_path}/own.yaml"]
    line = mistake(arguments, monkeypatch, capsys)
    for word in IN_FILES[text]:
        assert word in line


def test_commands_that_are_none_and_the_help_of_presets(monkeypatch, capsys):
    assert "'bogus' is not a command; it must be presets, " in mistake(
        ["bogus"], monkeypatch, capsys
    )
    monkeypatch.setattr(sys, "argv", ["igm", "presets", "--help"])
    console()
    assert capsys.readouterr().out.startswith("igm presets [WORD ...]")


GENERATOR_LOSS = "generator_loss(self, real, fake)"
TAKES_NONE = "it is called with real and fake, and does not"
SLIPS = [
    (GENERATOR_LOSS, "return self.critic(fake)", "generator_loss: shape (50,) is not allowed"),
    (GENERATOR_LOSS, "pass", "generator_loss: NoneType is not allowed"),
    (
        GENERATOR_LOSS,
        "return self.critic(fake).mean().detach()",
        "does not depend on the generator",
    ),
    ("critic_loss(self, fake)", "pass", f"Slip.critic_loss: {TAKES_NONE}"),
    ("generator_loss(self)", "pass", f"Slip.generator_loss: {TAKES_NONE}"),
    (
        "__init__(self, generator, critic)",
        "pass",
        "model: __init__ of Slip does not call super().__init__",
    ),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_an_own_method_is_named(slip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    head, line, told = slip
    module = f"slip_{SLIPS.index(slip)}"
    (tmp_path / f"{module}.py").write_text(
        f"from lightning_igm import GAN\n\n\nclass Slip(GAN):\n    def {head}:\n        {line}\n"
    )
    words = ["fit", "--config=gan/digits", *SMALL[2:5], f"--model={module}.Slip"]
    assert told in mistake(words, monkeypatch, capsys)


def test_an_own_module_that_has_changed_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tmp_path / "changing_loss.py"
    own.write_text("from lightning_igm import GAN\n\n\nclass Own(GAN):\n    pass\n")
    words = ["--config=gan/digits", "--model=changing_loss.Own"]
    main(words, run=False)
    main(words, run=False)
    later = own.stat().st_mtime + 5
    os.utime(own, (later, later))
    with pytest.warns(match=r"changing_loss\.py has changed since it was imported"):
        main(words, run=False)
    importlib.reload(sys.modules["changing_loss"])
    main(words, run=False)


class BatchNormCritic(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 1, 16), torch.nn.BatchNorm2d(1), torch.nn.Flatten(0))


class LayerNormCritic(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.LayerNorm(16), torch.nn.Conv2d(3, 1, 16), torch.nn.Flatten(0))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_line_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    arguments, words = MISTAKES[name]
    run = tmp_path / "run"
    line = mistake(["fit", *SMALL, f"--run.dir={run}", *arguments], monkeypatch, capsys)
    for word in words:
        assert word in line
    assert not run.exists() or files(run) == set()


def test_missing_data_root_names_the_files(tmp_path, monkeypatch, capsys):
    preset = ROOT / "configs/molm/color_mnist.yaml"
    arguments = ["fit", "--config", preset, f"--run.dir={tmp_path / 'run'}"]
    arguments += [f"--data.root={tmp_path / 'none'}", "--data.download=false"]
    line = mistake(arguments, monkeypatch, capsys)
    assert "train-images-idx3-ubyte" in line
    assert str(tmp_path / "none") in line


def test_bad_loss_names_step_player_and_checkpoint(tmp_path, monkeypatch, capsys):
    arguments = ["fit", *SMALL, f"--run.dir={tmp_path}", "--trainer.max_steps=6"]
    arguments += ["--checkpoint.every_n_steps=1", "--model.generator_optimizer.lr=1.0e+30"]
    line = mistake(arguments, monkeypatch, capsys)
    assert "generator_loss is not finite at generator step 1" in line
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    assert str(checkpoint) in line
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 1


def test_module_runs_as_igm():
    command = [sys.executable, "-m", "lightning_igm", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for subcommand in ("fit", "validate", "test", "predict"):
        assert subcommand in help_text


def test_fit_in_python_makes_no_scores_but_at_its_own_cadence(tmp_path):
    # More than an epoch of 35 batches: Lightning would validate after it.
    arguments = [*SMALL, f"--run.dir={tmp_path}", "--trainer.max_steps=30"]
    cli = main(arguments, run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.current_epoch > 0
    assert "fid" not in cli.trainer.callback_metrics


def test_optimizers_and_schedules_typed_on_resume_win_too(tmp_path):
    run = f"--run.dir={tmp_path / 'run'}"
    main(["fit", *SMALL, run, "--trainer.max_steps=3", "--model.generator_scheduler.T_max=8"])
    changed = ["--model.generator_optimizer.lr=0.5", "--model.critic_optimizer.betas=[0.1,0.2]"]
    changed += ["--model.generator_scheduler.T_max=8", "--trainer.max_steps=4"]
    cli = main(["fit", *SMALL, run, "--ckpt_path=last", *changed])
    generator, critic = cli.trainer.optimizers
    # After half of the cosine schedule, half of the rate that was typed.
    assert generator.param_groups[0]["lr"] == pytest.approx(0.25)
    assert critic.param_groups[0]["betas"] == (0.1, 0.2)
    _, schedule = (config.scheduler for config in cli.trainer.lr_scheduler_configs)
    assert schedule.T_max == 4  # ${trainer.max_steps}


def test_fit_in_python_refuses_a_folder_that_holds_a_run(trained):
    before = {name: (trained / name).read_bytes() for name in files(trained)}
    cli = main([*SMALL, f"--run.dir={trained}"], run=False)
    with pytest.raises(ValueError, match="already holds a run"):
        cli.trainer.fit(cli.model, cli.datamodule)
    assert {name: (trained / name).read_bytes() for name in files(trained)} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["ctrl-c", "slurm"])
def test_a_signal_stops_between_batches_and_loses_nothing(number, tmp_path, monkeypatch):
    on_slurm = staticmethod(lambda: number == signal.SIGUSR1)
    monkeypatch.setattr(slurm.SLURMEnvironment, "detect", on_slurm)
    arguments = [*SMALL, "--trainer.max_steps=6", "--ema.decay=0.5", "--samples.every_n_steps=3"]
    straight = main(["fit", *arguments, f"--run.dir={tmp_path / 'straight'}"])
    step = MoLM.generator_step

    def interrupted(self, real):
        step(self, real)
        if self.global_step == 3:
            os.kill(os.getpid(), number)

    run = f"--run.dir={tmp_path / 'run'}"
    with monkeypatch.context() as patch:
        patch.setattr(MoLM, "generator_step", interrupted)
        with pytest.raises(SystemExit):
            main(["fit", *arguments, run])
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    main(["fit", *arguments, run, "--ckpt_path=last"])
    assert files(tmp_path / "run") - {"checkpoints/previous.ckpt"} == files(tmp_path / "straight")
    for name in ("metrics.csv", "samples/step_00000003.png", "samples/step_00000006.png"):
        expected = (tmp_path / "straight" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == expected, name
    assert straight.trainer.global_step == 6


@pytest.mark.parametrize("fault", ["truncated", "of another network"])
def test_checkpoint_that_does_not_serve_gives_one_line(
    fault, trained, tmp_path, monkeypatch, capsys
):
    checkpoint = tmp_path / "copy.ckpt"
    data = (trained / "checkpoints/last.ckpt").read_bytes()
    checkpoint.write_bytes(data[: len(data) // 2] if fault == "truncated" else data)
    arguments = ["validate", *SMALL, f"--ckpt_path={checkpoint}"]
    if fault != "truncated":
        arguments.append("--model.generator.init_args.width=8")
    line = mistake(arguments, monkeypatch, capsys)
    assert str(checkpoint) in line
